#include "data/data_check.h"

#include <gtest/gtest.h>

#include "data/packed_loader.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::test_picture;
using test::TestFolder;

std::string record(const std::string& id, const std::string& image) {
  return R"({"id": ")" + id + R"(", "image": ")" + image +
         R"(", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]})";
}

TEST(DataCheck, CountsAndListsDamagedSamplesInFileOrder) {
  const TestFolder folder;
  folder.write("good.png", encode_png(test_picture(20, 20)));
  const std::string png = encode_png(test_picture(50, 50));
  folder.write("cut.png", png.substr(0, png.size() / 2));
  const std::string prompt_only = R"({"conversations": [{"from": "human", "value": "What?"}]})";
  const std::string path = folder.write(
      "data.jsonl",
      record("1", "good.png") + "\n" + record("2", "absent.png") + "\n\n{broken\n" +
          record("3", "good.png") + "\n" + record("4", "cut.png") + "\n" + record("1", "good.png") +
          "\n" + record("5", "absent.png") + "\n" + prompt_only + "\n");
  for (const int threads : {0, 1, 4}) {
    const Json json = check_data(path, threads).to_json();
    EXPECT_EQ(json["samples"], 8);
    EXPECT_EQ(json["kept"], 3);
    EXPECT_EQ(json["skipped"], 5);
    EXPECT_EQ(
        json["reasons"],
        Json({{"damaged image", 1}, {"invalid JSON", 1}, {"missing image", 2}, {"no answer", 1}}));
    EXPECT_EQ(json["duplicate_ids"], 1);
    ASSERT_EQ(json["listed"].size(), 5U);
    EXPECT_EQ(json["listed"][0]["file"], path);
    EXPECT_EQ(json["listed"][0]["place"], "line 2");
    EXPECT_EQ(json["listed"][0]["reason"], "missing image");
    EXPECT_NE(json["listed"][0]["detail"].get<std::string>().find("absent.png"), std::string::npos);
    EXPECT_EQ(json["listed"][1]["place"], "line 4");
    EXPECT_EQ(json["listed"][2]["place"], "line 6");
    EXPECT_EQ(json["unlisted"], 0);
    EXPECT_FALSE(json.dump().empty());
  }
}

TEST(DataCheck, ReadsListsAndShards) {
  const TestFolder folder;
  folder.write("good.png", encode_png(test_picture(20, 20)));
  const DataCheckReport list =
      check_data(folder.write("data.json", "[" + record("1", "good.png") + "]"), 1);
  EXPECT_EQ(list.samples, 1);
  EXPECT_EQ(list.kept, 1);
  const DataCheckReport shard = check_data(
      folder.write("shard.tar",
                   test::make_tar({{"a.json", record("1", "a.png"), '0', "", ""},
                                   {"a.png", encode_png(test_picture(20, 20)), '0', "", ""},
                                   {"\xff.png", "x", '0', "", ""}})),
      1);
  EXPECT_EQ(shard.samples, 2);
  EXPECT_EQ(shard.kept, 1);
  EXPECT_FALSE(shard.to_json().dump().empty());
  EXPECT_EQ(check_data(folder.write("empty.json", "[]"), 1).to_json()["listed"], Json::array());
}

TEST(DataCheck, ReadsPatternsAndTexts) {
  const TestFolder folder;
  folder.write("good.png", encode_png(test_picture(20, 20)));
  folder.write("part-1.jsonl", record("1", "good.png") + "\n");
  folder.write("part-2.jsonl", record("2", "absent.png") + "\n" + record("1", "good.png") + "\n");
  const DataCheckReport parts = check_data(folder.path("part-*.jsonl"), 2);
  EXPECT_EQ(parts.samples, 3);
  EXPECT_EQ(parts.kept, 2);
  EXPECT_EQ(parts.duplicate_ids, 1);
  ASSERT_EQ(parts.listed.size(), 1U);
  EXPECT_EQ(parts.listed[0].file, folder.path("part-2.jsonl"));
  const DataCheckReport text = check_data(folder.write("a.txt", "one\n\n\xff\n"), 1);
  EXPECT_EQ(text.samples, 2);
  EXPECT_EQ(text.reasons, (std::map<std::string, std::int64_t>{{"invalid UTF-8", 1}}));
}

/// Everything that the loader leaves out over an epoch and more, by place.
std::map<std::pair<std::string, std::string>, std::string> left_out_by_loader(const LoaderConfig& config,
                                                                               const PromptEncoder& encoder,
                                                                               std::int64_t samples) {
  PackedLoader loader(config, encoder);
  while (loader.state().next_position < 3 * samples) loader.next();
  std::map<std::pair<std::string, std::string>, std::string> left_out;
  for (const SkippedSample& sample : loader.skipped()) left_out[{sample.source, sample.place}] = sample.kind;
  return left_out;
}

TEST(DataCheck, FindsWhatTheLoaderOfAStageSkips) {
  const TestFolder folder;
  const std::string png = encode_png(test_picture(28, 28));
  folder.write("good.png", png);
  folder.write("cut.png", png.substr(0, png.size() / 2));
  folder.write("wide.png", encode_png(test_picture(400, 300)));  // more than 0.1 megapixels
  const auto with_answer = [](const std::string& id, const std::string& answer) {
    return R"({"id": ")" + id + R"(", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": ")" + answer + R"("}]})";
  };
  std::string lines, shard_texts;
  for (int i = 0; i < 60; ++i) lines += record("s" + std::to_string(i), i % 20 == 3 ? "cut.png" : "good.png") + "\n";
  lines += record("wide", "wide.png") + "\n" + with_answer("long", std::string(400, 'x')) + "\n" + "{broken\n" +
           with_answer("two pictures", "fine").replace(0, 1, R"({"image": ["good.png", "good.png"], )") + "\n" +
           R"({"id": "unlearned", "conversations": [{"from": "human", "value": "What?"}]})" + "\n";
  std::vector<test::TarEntry> members;
  for (int i = 0; i < 10; ++i) {
    members.push_back({fmt::format("{}.json", i), record(fmt::format("t{}", i), "x"), '0', "", ""});
    members.push_back({fmt::format("{}.png", i), i == 4 ? png.substr(0, 60) : png, '0', "", ""});
  }
  LoaderConfig config;
  config.sources.resize(3);
  config.sources[0].kind = "conversations";
  config.sources[0].path = folder.write("data.jsonl", lines);
  config.sources[1].kind = "tar";
  folder.write("shard-0.tar", test::make_tar(members));
  folder.write("shard-1.tar", test::make_tar({{"a.json", record("a", "gone.png"), '0', "", ""}}));
  config.sources[1].path = folder.path("shard-*.tar");
  config.sources[2].kind = "text";
  config.sources[2].path = folder.write("text.txt", "short\n" + std::string(500, 'y') + "\n\xff\n");
  config.batch_tokens = 512;
  config.max_tokens = 256;
  config.look_ahead = 16;
  config.workers = 0;
  ImageConfig images = test::small_images();
  images.max_megapixels = 0.1;
  const Tokenizer tokenizer = test::byte_tokenizer();
  const PromptEncoder encoder(tokenizer, test::small_prompt(), images);

  for (const char* long_text : {"refuse", "split"}) {
    config.long_text = long_text;
    const auto expected = left_out_by_loader(config, encoder, 80);
    for (const int threads : {1, 3}) {
      const DataCheckReport report = check_sources(config, threads, encoder);
      EXPECT_EQ(report.samples, 65 + 11 + 3);
      std::map<std::pair<std::string, std::string>, std::string> found;
      for (const auto& item : report.listed) found[{item.file, item.place}] = item.reason;
      EXPECT_EQ(found, expected);
      EXPECT_EQ(report.skipped(), static_cast<std::int64_t>(expected.size()));
      std::map<std::string, std::int64_t> reasons;
      for (const auto& [place, kind] : expected) ++reasons[kind];
      EXPECT_EQ(report.reasons, reasons);
      EXPECT_EQ(report.reasons.at("too long"), std::string(long_text) == "split" ? 1 : 2);
      EXPECT_EQ(report.reasons.at("image too large"), 1);
      EXPECT_EQ(report.reasons.at("damaged image"), 4);
      EXPECT_EQ(static_cast<std::int64_t>(report.tokens.size()), report.kept);
    }
  }
  // Without the stage's limits less is skipped.
  EXPECT_EQ(check_data(config.sources[0].path, 1).reasons.count("too long"), 0U);
}

TEST(DataCheck, ScenesAreNotRead) {
  LoaderConfig config;
  config.sources.resize(1);
  const Tokenizer tokenizer = test::byte_tokenizer();
  const PromptEncoder encoder(tokenizer, test::small_prompt(), test::small_images());
  const Json json = check_sources(config, 1, encoder).to_json();
  EXPECT_EQ(json["samples"], 0);
  EXPECT_EQ(json["endless_sources"], 1);
}

TEST(DataCheck, AFileThatCannotBeReadIsAnErrorThatNamesIt) {
  const TestFolder folder;
  for (const std::string& path : {folder.path("absent.json"),
                                  folder.write("broken.json", "[{\"id\": 1}"),
                                  folder.write("broken.tar", std::string(700, 'x')),
                                  folder.write("data.csv", "a,b")}) {
    EXPECT_NE(test::error_of([&] { check_data(path, 2); }).find(path), std::string::npos) << path;
  }
}

}  // namespace
}  // namespace pocketvlm
