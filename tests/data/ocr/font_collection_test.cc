#include "data/ocr/font_collection.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data/ocr/text_lines.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

TEST(FontCollection, KnowsWhichFacesHaveWhichLetters) {
  const FontCollection fonts("/usr/share/fonts", "abc出口ΩЖ");
  const auto names = [&](const std::u32string& letters) {
    std::vector<std::string> found;
    for (const int face : fonts.faces_for(letters)) found.push_back(fonts.faces()[static_cast<std::size_t>(face)].name);
    return found;
  };
  const auto has = [](const std::vector<std::string>& list, const std::string& name) {
    return std::any_of(list.begin(), list.end(), [&](const std::string& item) { return item.find(name) != std::string::npos; });
  };
  EXPECT_TRUE(has(names(U"a b"), "Noto Sans Regular"));
  EXPECT_TRUE(has(names(U"Ωa"), "Noto Serif Regular"));
  EXPECT_TRUE(has(names(U"出口"), "CJK"));
  EXPECT_FALSE(has(names(U"出口"), "Noto Serif Regular"));
  for (const FontFace& face : fonts.faces()) EXPECT_EQ(face.name.find("Emoji"), std::string::npos);
  EXPECT_EQ(fonts.missing_letter(U"出口 abc"), std::nullopt);
  // A letter without ink counts as missing.
  EXPECT_EQ(FontCollection("/usr/share/fonts", "a\xe2\x80\x83").missing_letter(U"a\u2003"), U'\u2003');
  EXPECT_EQ(fonts.missing_letter(U"abd"), U'd') << "not in the text that the collection was made for";
}

TEST(FontCollection, AFolderWithoutFontsIsAnError) {
  const TestFolder folder;
  folder.write("broken.ttf", "no font");
  EXPECT_NE(error_of([&] { FontCollection(folder.path(""), "a"); }).find("holds no TrueType or OpenType font"), std::string::npos);
  EXPECT_NE(error_of([&] { FontCollection(folder.path("absent"), "a"); }).find("name a readable folder"), std::string::npos);
}

TEST(LetterPainter, InkFillsItsBox) {
  const FontCollection fonts("/usr/share/fonts", "Hg出");
  LetterPainter painter(fonts);
  for (const std::u32string letters : {U"Hg", U"H g", U"出"}) {
    const int face = fonts.faces_for(letters).front();
    const DrawnLine line = painter.draw(face, 40, letters);
    const auto ink = [&](int x, int y) { return line.coverage[static_cast<std::size_t>(y) * static_cast<std::size_t>(line.width) + static_cast<std::size_t>(x)] > 0; };
    bool left = false, right = false, top = false, bottom = false;
    for (int y = 0; y < line.height; ++y) left |= ink(0, y), right |= ink(line.width - 1, y);
    for (int x = 0; x < line.width; ++x) top |= ink(x, 0), bottom |= ink(x, line.height - 1);
    EXPECT_TRUE(left && right && top && bottom) << utf8_of(letters);
  }
  // A space makes a line wider; the letters stay.
  const int face = fonts.faces_for(U"Hg").front();
  EXPECT_EQ(painter.draw(face, 40, U"H g").width, painter.draw(face, 40, U"Hg").width + 10);
}

TEST(LetterPainter, AFontThatIsGoneIsAnError) {
  const TestFolder folder;
  const std::string font = folder.path("a.ttf");
  std::filesystem::copy("/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf", font);
  const FontCollection fonts(folder.path(""), "a");
  std::filesystem::remove(font);
  LetterPainter painter(fonts);
  EXPECT_NE(error_of([&] { painter.draw(0, 20, U"a"); }).find("a.ttf: the font can no longer be read"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
