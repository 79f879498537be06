#include "data/ocr/text_lines.h"

#include <gtest/gtest.h>

#include "data/ocr/font_collection.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

OcrConfig config_of(const TestFolder& folder, const std::string& text) {
  OcrConfig config;
  config.text = folder.write("text.txt", text);
  config.max_letters = 12;
  return config;
}

TextLines lines_of(const OcrConfig& config) { return read_text_lines(config, FontCollection(config.fonts, text_of(config))); }

TEST(TextLines, LongLinesAreBrokenAtSpacesAndWhereThereIsNone) {
  const TestFolder folder;
  const TextLines text = lines_of(config_of(folder, "\xef\xbb\xbfThe  quick\tbrown fox \r\n\n\nabcdefghijklmnopqrstuvwxyz\n出口入口商店学校银行公园市场"));
  std::vector<std::pair<std::string, std::int64_t>> found;
  for (const TextLine& line : text.lines) found.emplace_back(utf8_of(line.letters), line.source_line);
  EXPECT_EQ(found,
            (std::vector<std::pair<std::string, std::int64_t>>{{"The quick", 1},
                                                               {"brown fox", 1},
                                                               {"abcdefghijkl", 4},
                                                               {"mnopqrstuvwx", 4},
                                                               {"yz", 4},
                                                               {"出口入口商店学校银行公园", 5},
                                                               {"市场", 5}}));
  EXPECT_TRUE(text.unused.empty());
}

TEST(TextLines, WhatCannotBeDrawnRightIsLeftOutAndListed) {
  const TestFolder folder;
  const TextLines text = lines_of(config_of(folder,
                                            "Grüße\n"
                                            "caf\xe9\n"
                                            "مرحبا\n"
                                            "नमस्ते\n"
                                            "e\xcc\x81t\n"
                                            "smile \xf0\x9f\x98\x80\n"
                                            "שלום עולם\n"
                                            "שלום 12\n"
                                            "a \xf0\xbf\xbf\xbd b\n"
                                            "Ελλάδα, Москва, გამარჯობა\n"));
  std::vector<std::pair<std::int64_t, std::string>> unused;
  for (const UnusedLine& line : text.unused) {
    unused.emplace_back(line.source_line, line.reason);
    EXPECT_FALSE(line.detail.empty());
  }
  EXPECT_EQ(unused,
            (std::vector<std::pair<std::int64_t, std::string>>{{2, "invalid UTF-8"},
                                                               {3, "needs shaping"},
                                                               {4, "needs shaping"},
                                                               {5, "needs shaping"},
                                                               {6, "needs shaping"},
                                                               {8, "needs shaping"},
                                                               {9, "needs shaping"}}));
  EXPECT_EQ(text.lines.front().source_line, 1);
  EXPECT_EQ(text.lines.back().source_line, 10);
}

TEST(TextLines, ALetterThatNoFontHasLeavesItsLineOut) {
  const TestFolder folder;
  OcrConfig config = config_of(folder, "plain\nx\xe2\x81\xa5\n\xe4\xb8\xad\xe6\x96\x87\n");  // U+2065 is no letter
  config.max_letters = 40;
  const TextLines shaping = lines_of(config);
  EXPECT_EQ(shaping.unused.size(), 1U);
  // A folder with one Latin font has no Chinese letters.
  const TestFolder fonts;
  std::filesystem::copy("/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf", fonts.path("a.ttf"));
  fonts.write("broken.ttf", "no font");
  config.fonts = fonts.path("");
  const TextLines text = lines_of(config);
  ASSERT_EQ(text.lines.size(), 1U);
  ASSERT_EQ(text.unused.size(), 2U);
  EXPECT_EQ(text.unused[1].reason, "no font");
  EXPECT_EQ(text.unused[1].source_line, 3);
  EXPECT_NE(text.unused[1].detail.find("U+4E2D"), std::string::npos) << text.unused[1].detail;
}

TEST(TextLines, HebrewIsDrawnFromTheRight) {
  EXPECT_EQ(visual_order(U"שלום"), U"םולש");
  EXPECT_EQ(visual_order(U"abc"), U"abc");
}

TEST(TextLines, TheDefaultHoldsTenLanguages) {
  const TextLines text = lines_of({});
  EXPECT_GT(text.lines.size(), 100U);
  EXPECT_TRUE(text.unused.empty());
  const std::string all = text_of({});
  for (const char* word : {"WELCOME", "GRÜN", "ВЫХОД", "出口", "ラーメン", "환영"}) EXPECT_NE(all.find(word), std::string::npos) << word;
}

TEST(TextLines, AFileWithoutUsableTextIsAnError) {
  const TestFolder folder;
  EXPECT_NE(error_of([&] { lines_of(config_of(folder, "\n \n")); }).find("no line of it can be drawn (0 left out)"), std::string::npos);
  EXPECT_NE(error_of([&] { lines_of(config_of(folder, "مرحبا\n")); }).find("(1 left out, the first: needs shaping)"), std::string::npos);
  OcrConfig absent;
  absent.text = folder.path("absent.txt");
  EXPECT_NE(error_of([&] { lines_of(absent); }).find("absent.txt"), std::string::npos);
}

TEST(OcrConfig, RangesTheWrongWayRoundAreErrors) {
  const auto error = [](const char* assignment) {
    Json json = config_to_json(OcrConfig{});
    apply_override(json, assignment);
    return error_of([&] { read_config<OcrConfig>(json, "ocr"); });
  };
  EXPECT_NE(error("min_side=1000").find("ocr.min_side: 1000 exceeds max_side = 672"), std::string::npos);
  EXPECT_NE(error("min_font_pixels=80").find("ocr.min_font_pixels: 80 exceeds max_font_pixels = 64"), std::string::npos);
  EXPECT_NE(error("max_jpeg_quality=30").find("ocr.min_jpeg_quality: 40 exceeds max_jpeg_quality = 30"), std::string::npos);
  EXPECT_NE(error("perspectiv=0.1").find("did you mean \"perspective\"?"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
