#include "apps/data_check_page.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pocketvlm {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

DataCheckReport report_of(std::vector<std::int32_t> tokens) {
  DataCheckReport report;
  report.samples = static_cast<std::int64_t>(tokens.size()) + 3;
  report.kept = static_cast<std::int64_t>(tokens.size());
  report.images = 7;
  report.duplicate_ids = 2;
  report.tokens = std::move(tokens);
  report.reasons = {{"missing image", 2}, {"too long", 1}};
  report.listed = {{"a.json", "[0], line 1", "missing image", "<b>x.png</b>: there is no such file"},
                   {"a.json", "[4], line 9", "missing image", "y.png"},
                   {"b.tar", "k<1>", "too long", "300 tokens exceed max_tokens = 256"}};
  return report;
}

TEST(DataCheckPage, TellsCountsReasonsAndPlaces) {
  const std::string page = data_check_page("my & data.json", report_of({10, 20, 30}));
  EXPECT_NE(page.find("<h2>my &amp; data.json</h2>"), std::string::npos);
  EXPECT_NE(page.find("6 samples, 3 kept, 3 skipped, 7 pictures; 2 ids appear more than once."), std::string::npos);
  EXPECT_NE(page.find("60 tokens in all; mean 20, median 20, 95 % up to 20, 99 % up to 20, longest 30."), std::string::npos);
  for (const char* reason : {"missing image", "too long"}) EXPECT_NE(page.find(reason), std::string::npos);
  EXPECT_NE(page.find("missing image: &lt;b&gt;x.png&lt;/b&gt;: there is no such file"), std::string::npos);
  EXPECT_NE(page.find("b.tar: k&lt;1&gt;"), std::string::npos);
  EXPECT_EQ(page.find("<b>x.png"), std::string::npos) << "what files hold is no markup";
  EXPECT_EQ(page.find("http"), std::string::npos) << "it needs nothing from elsewhere";
  EXPECT_EQ(count(page, "<tr>"), 4U);
  EXPECT_TRUE(page.ends_with("</main></body></html>\n"));
}

TEST(DataCheckPage, TheHistogramHoldsEverySample) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 1000; ++i) tokens.push_back(1 + (i * i) % 793);
  const std::string page = data_check_page("d", report_of(tokens));
  std::int64_t samples = 0, columns = 0;
  double highest = 0;
  for (std::size_t at = page.find(" tokens: "); at != std::string::npos; at = page.find(" tokens: ", at + 1)) {
    const std::int64_t here = std::stoll(page.substr(at + 9));
    // "first to last tokens: count": the column's own range holds as many lengths.
    const std::size_t begin = page.rfind("<title>", at) + 7;
    const int first = std::stoi(page.substr(begin));
    const int last = std::stoi(page.substr(page.find(" to ", begin) + 4));
    EXPECT_EQ(here, std::count_if(tokens.begin(), tokens.end(), [&](std::int32_t length) { return length >= first && length <= last; }));
    samples += here;
    highest = std::max(highest, static_cast<double>(here));
    ++columns;
  }
  EXPECT_EQ(samples, 1000);
  EXPECT_GE(columns, 30);
  EXPECT_LE(columns, 41);
  EXPECT_GT(highest, 0);
}

TEST(DataCheckPage, OneLengthAndNoneArePages) {
  EXPECT_NE(data_check_page("d", report_of({0})).find("0 to 0 tokens: 1"), std::string::npos);
  DataCheckReport clean;
  clean.samples = clean.kept = 3;
  const std::string page = data_check_page("d", clean);
  EXPECT_EQ(page.find("<svg"), std::string::npos);
  EXPECT_EQ(page.find("Skipped"), std::string::npos);
}

TEST(DataCheckPage, ShowsTheFirstDamagedSamplesOfMany) {
  DataCheckReport report = report_of({5});
  report.listed.assign(1000, report.listed.front());
  EXPECT_EQ(count(data_check_page("d", report), "<tr>"), 201U);
}

}  // namespace
}  // namespace pocketvlm
