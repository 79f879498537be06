#include "trainer/report/run_curves.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/files.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

using Color = std::array<int, 3>;
constexpr Color kFirst = {0x2e, 0x7d, 0x5b}, kSecond = {0xc0, 0x39, 0x2b};

class RunCurvesTest : public testing::Test {
 protected:
  RunCurvesTest() {
    std::string name = testing::TempDir() + "pocketvlm_curves_XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) folder_ = name;
  }
  ~RunCurvesTest() override { fs::remove_all(folder_); }

  /// A run whose loss goes in a straight line from step 0 to step 100.
  std::string run(const std::string& name, double first, double last) const {
    std::string lines;
    for (const double share : {0.0, 0.5, 1.0}) lines += fmt::format("{{\"step\": {}, \"loss\": {}}}\n", 100 * share, first + share * (last - first));
    write_file_atomic(folder_ + "/" + name + "/metrics.jsonl", lines);
    return folder_ + "/" + name;
  }

  std::string folder_;
};

/// Rows in which this colour stands, column by column, right of the key's square; -1: none.
std::vector<double> rows_of(const Image& image, const Color& color, int from_y) {
  std::vector<double> rows;
  for (int x = 0; x < image.width; ++x) {
    double sum = 0;
    int count = 0;
    for (int y = from_y; y < image.height; ++y) {
      const std::uint8_t* pixel = image.at(x, y);
      if (pixel[0] == color[0] && pixel[1] == color[1] && pixel[2] == color[2]) sum += y, ++count;
    }
    rows.push_back(count > 0 ? sum / count : -1);
  }
  return rows;
}

Image written_and_read(const Image& image) {
  const std::string png = encode_png(image);
  return decode_image(std::as_bytes(std::span(png)), "curves.png");
}

TEST_F(RunCurvesTest, PictureHoldsTheCurveOfEveryRunInItsColour) {
  const RunCurves both = RunCurves::read({run("falls", 3.0, 1.0), run("rises", 1.0, 2.0)});
  const Image image = written_and_read(both.picture());
  ASSERT_EQ(both.runs.size(), 2U);
  constexpr int kBelowTheKey = 44;
  const std::vector<double> falls = rows_of(image, kFirst, kBelowTheKey), rises = rows_of(image, kSecond, kBelowTheKey);
  // Where both are: from the first step to the last.
  int begin = -1, end = -1;
  for (int x = 0; x < image.width; ++x) {
    if (falls[static_cast<std::size_t>(x)] < 0) continue;
    begin = begin < 0 ? x : begin;
    end = x;
  }
  ASSERT_GT(end - begin, 300) << "the curve spans its chart";
  int drawn = 0;
  for (int x = begin; x <= end; ++x) drawn += falls[static_cast<std::size_t>(x)] >= 0 && rises[static_cast<std::size_t>(x)] >= 0 ? 1 : 0;
  EXPECT_GT(drawn, (end - begin) * 9 / 10) << "without gaps";
  // Down on the screen is down in value. 3 is the top of the axis, and 0 its bottom.
  const double from = falls[static_cast<std::size_t>(begin + 3)], to = falls[static_cast<std::size_t>(end - 1)];
  EXPECT_GT(to - from, 100);
  const double unit = (to - from) / 2;
  EXPECT_NEAR(rises[static_cast<std::size_t>(begin + 3)], to, 0.1 * unit) << "it begins at 1";
  EXPECT_NEAR(rises[static_cast<std::size_t>(end - 1)], to - unit, 0.1 * unit) << "and ends at 2";
  // The key has a square of each colour.
  for (const Color& color : {kFirst, kSecond}) {
    int found = 0;
    for (int y = 0; y < kBelowTheKey; ++y) {
      for (int x = 0; x < image.width; ++x) found += std::equal(color.begin(), color.end(), image.at(x, y)) ? 1 : 0;
    }
    EXPECT_EQ(found, 12 * 12);
  }
}

TEST_F(RunCurvesTest, PictureOfOneRunLacksTheOthersColour) {
  const Image image = written_and_read(RunCurves::read({run("alone", 3.0, 1.0)}).picture());
  int first = 0, second = 0, dark = 0;
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    const Color pixel = {image.rgb[i], image.rgb[i + 1], image.rgb[i + 2]};
    first += pixel == kFirst ? 1 : 0;
    second += pixel == kSecond ? 1 : 0;
    dark += pixel[0] < 100 && pixel[1] < 100 && pixel[2] < 100 ? 1 : 0;
  }
  EXPECT_GT(first, 300);
  EXPECT_EQ(second, 0);
  EXPECT_GT(dark, 100) << "the words";
}

TEST_F(RunCurvesTest, ChartsOfStagesStandBelowEachOther) {
  const std::string whole = folder_ + "/whole";
  for (const char* stage : {"01-first", "02-second"}) run(fmt::format("whole/stages/{}", stage), 2.0, 1.0);
  const RunCurves curves = RunCurves::read({whole});
  ASSERT_EQ(curves.charts.size(), 2U);
  EXPECT_EQ(curves.charts.begin()->first, "stages/01-first");
  const Image one = RunCurves::read({whole + "/stages/01-first"}).picture(), two = curves.picture();
  EXPECT_EQ(two.width, one.width);
  EXPECT_GT(two.height, 2 * one.height - 60);
  const std::string page = curves.page();
  EXPECT_NE(page.find("<h2>stages/02-second</h2>"), std::string::npos);
  EXPECT_NE(page.find("stroke=\"#2e7d5b\""), std::string::npos);
}

TEST_F(RunCurvesTest, MistakesAreErrors) {
  const auto error_of = [](const std::string& folder) -> std::string {
    try {
      RunCurves::read({folder});
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_NE(error_of(folder_ + "/absent").find("absent: no such folder"), std::string::npos);
  EXPECT_NE(error_of(folder_).find("no metrics.jsonl"), std::string::npos);
  write_file_atomic(folder_ + "/bad/metrics.jsonl", "{\"loss\": 1}\n");
  EXPECT_NE(error_of(folder_ + "/bad").find("metrics.jsonl:1: no number \"step\""), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
