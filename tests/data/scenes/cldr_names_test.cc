#include "data/scenes/cldr_names.h"

#include <algorithm>

#include "base/files.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

TEST(CldrNames, ReadsShortNamesWithEntitiesCommentsAndAnyAttributeOrder) {
  const TestFolder folder;
  write_file_atomic(folder.file("xx.xml"),
                    "<?xml version=\"1.0\"?>\n<!DOCTYPE ldml SYSTEM \"x.dtd\">\n"
                    "<!-- <annotation cp=\"a\" type=\"tts\">not this</annotation> -->\n"
                    "<ldml><annotations>\n"
                    "<annotation cp=\"c\">words | more</annotation>\n"
                    "<annotation cp=\"c\" type=\"tts\"> cat &amp; co </annotation>\n"
                    "<annotation type='tts' cp='d'>dog&#33;, hound</annotation>\n"
                    "<annotation cp=\"e\" type=\"tts\">↑↑↑</annotation>\n"
                    "<annotation cp=\"f\" type=\"tts\"/>\n"
                    "<annotationSet cp=\"g\" type=\"tts\">no</annotationSet>\n"
                    "</annotations></ldml>\n");
  const auto names = read_cldr_names(folder.file("xx.xml"));
  EXPECT_EQ(names.size(), 2U);
  EXPECT_EQ(names.at("c"), "cat & co");
  EXPECT_EQ(names.at("d"), "dog!");
}

TEST(CldrNames, ADamagedFileIsAnErrorWithFileAndLine) {
  const TestFolder folder;
  write_file_atomic(folder.file("xx.xml"), "<ldml>\n<annotation cp=\"c\" type=\"tts\">cat\n");
  const std::string error = error_of([&] { read_cldr_names(folder.file("xx.xml")); });
  EXPECT_NE(error.find("xx.xml:2"), std::string::npos) << error;
}

TEST(CldrNames, KnowsTheClassesInMoreThanAHundredLanguages) {
  ScenesConfig config;
  const auto classes = selected_classes(config, "scenes");
  EXPECT_EQ(class_names_in("en", classes, "scenes")[0], "cat");
  EXPECT_EQ(class_names_in("de", classes, "scenes")[0], "Katze");
  EXPECT_EQ(class_names_in("zh", classes, "scenes")[0], "猫");
  EXPECT_EQ(class_names_in("de_AT", classes, "scenes")[0], "Katze");  // inherited
  EXPECT_EQ(language_name("sw"), "Swahili");
  int languages = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/share/unicode/cldr/common/annotations")) {
    const std::string language = entry.path().stem().string();
    languages += error_of([&] { class_names_in(language, classes, "scenes"); }).empty() ? 1 : 0;
  }
  EXPECT_GE(languages, 100);
}

TEST(CldrNames, ALanguageWithoutNamesIsAnErrorThatNamesIt) {
  const auto classes = selected_classes({}, "scenes");
  EXPECT_NE(error_of([&] { class_names_in("xq", classes, "data.scenes"); }).find("data.scenes.languages"),
            std::string::npos);
  EXPECT_NE(error_of([&] { class_names_in("kl", classes, "data.scenes"); }).find("chair"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
