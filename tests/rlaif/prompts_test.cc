#include "rlaif/prompts.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "rlaif/picture_field.h"
#include "rules_files.h"

namespace pocketvlm {
namespace {

using test::fresh_folder;

TEST(PictureFields, TellPathsFromPictures) {
  const std::string long_path = "images/" + std::string(120, 'a') + ".png";
  const std::string encoded = encode_base64(encode_png(Image(40, 40)));
  ASSERT_GT(encoded.size(), 100u);
  EXPECT_EQ(picture_field({{"image_path", long_path}}, "").path, long_path);
  EXPECT_EQ(picture_field({{"image_path", std::string(120, 'a')}}, "").path, std::string(120, 'a'));
  EXPECT_EQ(picture_field({{"image", long_path}}, "").path, long_path);
  EXPECT_EQ(picture_field({{"image", encoded}}, "").encoded, encoded);
  EXPECT_EQ(picture_field({{"image", {{"bytes", "AAAA"}, {"path", "a.png"}}}}, "").encoded, "AAAA");
  EXPECT_EQ(picture_field({{"image", {{"bytes", nullptr}, {"path", "a.png"}}}}, "").path, "a.png");
  EXPECT_EQ(picture_field({{"image_path", nullptr}}, "").path, "");
  EXPECT_THROW(picture_field({{"image", 3}}, "here"), Error);
  EXPECT_THROW(picture_field({{"image", Json::object()}}, "here"), Error);
}

TEST(Instructions, FindPicturesUnderLongPaths) {
  const std::string folder = fresh_folder("long");
  const std::string name = "a-folder-with-a-name/of-many-words/" + std::string(80, 'x') + "/picture.png";
  make_folders(folder + "/" + std::filesystem::path(name).parent_path().string());
  write_file_atomic(folder + "/" + name, encode_png(Image(5, 7)));
  RlaifConfig config;
  config.instructions = test::write_instructions(folder, {{{"image_path", name}, {"question", "what?"}}});
  EXPECT_EQ(Prompts(config).at(0).image.height, 7);
}

TEST(Instructions, SayWhatTheTruthIsToLookLike) {
  const std::string folder = fresh_folder("truth");
  RlaifConfig config;
  config.instructions = test::write_instructions(
      folder, {{{"image_path", "a.png"}, {"question", "what?"}, {"truth", {{"objects", {{{"box", {1, 2, 3, 4}}}}}}}}});
  try {
    const Prompts prompts(config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("instructions.jsonl:1: truth.objects"), std::string::npos) << error.what();
  }
}

TEST(Prompts, CountThoseThatAnEarlierRoundHad) {
  const std::string folder = fresh_folder("repeated");
  std::vector<Json> rows;
  for (int i = 0; i < 5; ++i) rows.push_back({{"id", i}, {"image_path", "a.png"}, {"question", "what?"}});
  RlaifConfig config;
  config.instructions = test::write_instructions(folder, rows);
  config.num_prompts = 2;
  for (const auto& [round, repeated] : std::vector<std::pair<int, int>>{{0, 0}, {1, 0}, {2, 1}, {3, 2}})
    EXPECT_EQ(Prompts(config, round).repeated(), repeated) << round;
  EXPECT_EQ(Prompts(config, 2).id(1), "0");
}

}  // namespace
}  // namespace pocketvlm
