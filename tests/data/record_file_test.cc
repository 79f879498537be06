#include "data/record_file.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "data/json_scanner.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

TEST(RecordFile, FindsTheElementsOfAListWithTheirLines) {
  const TestFolder folder;
  const std::string text =
      "\xef\xbb\xbf [\n {\"a\": [1, {\"b\": \"]},{\\\"\"}]},\n\n  -1.5e+3 , \"x\"\n,null,[], "
      "{}]\n ";
  const RecordFile file(folder.write("a.json", text), RecordFile::Form::kJsonList);
  ASSERT_EQ(file.size(), 6);
  EXPECT_EQ(file.record(0), "{\"a\": [1, {\"b\": \"]},{\\\"\"}]}");
  EXPECT_EQ(file.record(1), "-1.5e+3");
  EXPECT_EQ(file.record(2), "\"x\"");
  EXPECT_EQ(file.record(5), "{}");
  EXPECT_EQ(file.place(0), "[0], line 2");
  EXPECT_EQ(file.place(1), "[1], line 4");
  EXPECT_EQ(file.place(3), "[3], line 5");
}

TEST(RecordFile, AnEmptyListHoldsNothing) {
  const TestFolder folder;
  EXPECT_EQ(RecordFile(folder.write("a.json", " [ ]"), RecordFile::Form::kJsonList).size(), 0);
  EXPECT_EQ(RecordFile(folder.write("a.txt", ""), RecordFile::Form::kLines).size(), 0);
}

TEST(RecordFile, FindsLinesAndPassesOverBlankOnes) {
  const TestFolder folder;
  const RecordFile file(folder.write("a.txt", "one\r\n\n \t\ntwo\nthree"),
                        RecordFile::Form::kLines);
  ASSERT_EQ(file.size(), 3);
  EXPECT_EQ(file.record(0), "one");
  EXPECT_EQ(file.record(1), "two");
  EXPECT_EQ(file.record(2), "three");
  EXPECT_EQ(file.place(1), "line 4");
}

TEST(RecordFile, ABrokenListIsAnErrorWithLineAndColumn) {
  const TestFolder folder;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "line 1, column 1"},
      {"{\"id\": 1}", "must be a JSON list"},
      {"[{\"id\": 1}\n{\"id\": 2}]", "line 2, column 1"},
      {"[{\"id\": 1},]", "line 1, column 12"},
      {"[{\"id\": 1", "cut off"},
      {"[{\"id\": \"abc", "not closed"},
      {"[{\"id\": \"a\nb\"}]", "control character"},
      {"[{\"id\" 1}]", "expected ':'"},
      {"[{id: 1}]", "double quotes"},
      {"[{\"id\": 1,}]", "double quotes"},
      {"[01]", "line 1, column 3"},
      {"[1.]", "digit"},
      {"[-]", "digit"},
      {"[1e]", "digit"},
      {"[tru]", "expected a value"},
      {"[\"\\x\"]", "unknown escape"},
      {"[\"\\u12g4\"]", "hexadecimal"},
      {"[1] 2", "follows the end"},
      {"[1}", "expected ']'"},
      {"[{\"a\": [1}]]", "expected ']'"},
      {"[// no\n1]", "expected a value"},
      {std::string(2000, '['), "nested deeper"},
      {std::string("[\0]", 3), "expected a value"},
  };
  for (const auto& [text, wanted] : cases) {
    const std::string path = folder.write("broken.json", text);
    const std::string error = error_of([&] { RecordFile(path, RecordFile::Form::kJsonList); });
    EXPECT_NE(error.find(path), std::string::npos) << text;
    EXPECT_NE(error.find(wanted), std::string::npos) << text << " -> " << error;
  }
}

TEST(RecordFile, AgreesWithTheParserOnEveryPrefixAndEverySingleByteChange) {
  const std::string good = "[{\"a\":[1,-0.5E-2,\"\\u00e9\\n\"]},[],{},true,null,\"z\"]";
  const auto accepts = [&](const std::string& text) {
    return error_of(
               [&] { scan_json_list(text, "x", [](std::size_t, std::size_t, std::size_t) {}); })
        .empty();
  };
  int disagreements = 0;
  for (std::size_t i = 0; i <= good.size(); ++i) {
    if (accepts(good.substr(0, i)) != (i == good.size())) ++disagreements;
  }
  for (std::size_t i = 1; i < good.size(); ++i) {
    for (const char c : std::string(" ,:[]{}\"0e.-\\x\n\x01")) {
      std::string text = good;
      text[i] = c;
      const bool is_list = nlohmann::json::accept(text) && nlohmann::json::parse(text).is_array();
      if (accepts(text) != is_list) {
        ++disagreements;
        ADD_FAILURE() << text;
      }
    }
  }
  EXPECT_EQ(disagreements, 0);
}

TEST(Utf8, KnowsValidAndInvalidText) {
  for (const char* good : {"",
                           "abc",
                           "\xc3\xa9",
                           "\xe2\x82\xac",
                           "\xf0\x9f\x98\x80",
                           "\xed\x9f\xbf",
                           "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(good));
  }
  for (const char* bad : {"\x80",
                          "\xc3",
                          "\xc0\xaf",
                          "\xe0\x80\x80",
                          "\xed\xa0\x80",
                          "\xf4\x90\x80\x80",
                          "\xff",
                          "a\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

TEST(Printable, ReplacesWhatCannotBeShown) {
  EXPECT_EQ(printable("caf\xc3\xa9\n\xff"), "caf\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(printable(std::string(300, 'a'), 10), "aaaaaaaaaa...");
}

}  // namespace
}  // namespace pocketvlm
