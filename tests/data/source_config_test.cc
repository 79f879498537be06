#include "data/source_config.h"

#include <gtest/gtest.h>

#include "data/packed_loader.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

std::string error_of_config(const std::string& json) {
  return error_of([&] { read_config<LoaderConfig>(parse_json(json, "test"), "data"); });
}

TEST(SourceConfig, SettingsThatCannotTakeEffectAreErrors) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"sources": []})", "data.sources: is empty"},
      {R"({})", "\"sources\" is required"},
      {R"({"sources": [{"kind": "scenes", "weight": 0}]})", "every weight is 0"},
      {R"({"sources": [{"kind": "scenes", "weight": -1}]})", "data.sources[0].weight"},
      {R"({"sources": [{"kind": "scenes", "path": "x.json"}]})", "data.sources[0].path"},
      {R"({"sources": [{"kind": "conversations"}]})", "data.sources[0].path"},
      {R"({"sources": [{"kind": "tar", "path": "x.tar", "seed": 3}]})", "data.sources[0].seed"},
      {R"({"sources": [{"kind": "text", "path": "x", "scenes": {"num_classes": 10}}]})",
       "data.sources[0].scenes"},
      {R"({"sources": [{"kind": "txt"}]})", "data.sources[0].kind"},
      {R"({"sources": [{"kind": "scenes"}], "max_tokens": 5000, "batch_tokens": 4096})",
       "data.max_tokens"},
  };
  for (const auto& [json, wanted] : cases) {
    const std::string error = error_of_config(json);
    EXPECT_NE(error.find(wanted), std::string::npos) << json << " -> " << error;
  }
  EXPECT_EQ(error_of_config(R"({"sources": [{"kind": "scenes"}, {"kind": "text", "path": "x"}]})"),
            "");
}

TEST(OpenSource, OpensEveryKindOfFileAndRefusesEmptyOnes) {
  const TestFolder folder;
  const auto open = [&](const std::string& kind, const std::string& path) {
    SourceConfig config;
    config.kind = kind;
    config.path = path;
    return open_source(config);
  };
  EXPECT_EQ(open("conversations", folder.write("a.json", "[{}, {}]"))->size(), 2);
  EXPECT_EQ(open("conversations", folder.write("a.jsonl", "{}\n"))->size(), 1);
  EXPECT_EQ(open("text", folder.write("a.txt", "one\ntwo\nthree"))->size(), 3);
  EXPECT_EQ(
      open("tar", folder.write("a.tar", test::make_tar({{"a.json", "{}", '0', "", ""}})))->size(),
      1);
  EXPECT_NE(
      error_of([&] { open("text", folder.write("empty.txt", "\n")); }).find("holds no samples"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              open("conversations", folder.write("empty.json", "[]"));
            }).find("holds no samples"),
            std::string::npos);
  EXPECT_NE(error_of([&] { open("tar", folder.path("absent.tar")); }).find("absent.tar"),
            std::string::npos);
}

TEST(OpenSource, APatternMeansAllShardsInOrderOfTheirNames) {
  const TestFolder folder;
  for (const char* name : {"b-2.txt", "b-1.txt", "other.txt", ".b-0.txt"}) {
    folder.write(name, std::string(name) + " one\n\xff\n");
  }
  folder.write("b-3.txt", "");
  SourceConfig config;
  config.kind = "text";
  config.path = folder.path("b-*.txt");
  const auto source = open_source(config);
  ASSERT_EQ(source->size(), 4);
  EXPECT_EQ(source->at(0).chat.turns.at(0).content, "b-1.txt one");
  EXPECT_EQ(source->at(2).chat.turns.at(0).content, "b-2.txt one");
  EXPECT_EQ(source->name(), config.path);
  EXPECT_EQ(source->place(3), folder.path("b-2.txt") + ": line 2");
  EXPECT_NE(error_of([&] { source->at(3); }).find("b-2.txt: line 2: invalid UTF-8"),
            std::string::npos);
  EXPECT_NE(error_of([&] { source->at(4); }).find("no sample 4 of 4"), std::string::npos);
  config.path = folder.path("c-*.txt");
  EXPECT_NE(error_of([&] { open_source(config); }).find("no file has such a name"),
            std::string::npos);
  config.path = folder.path("absent/c-*.txt");
  EXPECT_NE(error_of([&] { open_source(config); }).find("cannot be read"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
