#include "data/ocr/ocr_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/files.h"
#include "data/conversations.h"
#include "data/data_check.h"
#include "data/tar.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::TestFolder;

std::map<std::string, std::string> files_below(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[std::filesystem::relative(entry.path(), folder).string()] = read_file(entry.path().string());
  }
  return files;
}

class OcrWriter : public testing::Test {
 protected:
  OcrOutput output(const std::string& name, bool as_tar = false, int threads = 1) const {
    return {folder_.path(name), 10, as_tar, threads, 4};
  }
  static OcrConfig small() {
    OcrConfig config;
    config.min_side = 96;
    config.max_side = 160;
    return config;
  }
  TestFolder folder_;
  OcrPainter painter_{small(), 3};
};

TEST_F(OcrWriter, WritesTheSameBytesWhateverTheNumberOfThreads) {
  for (const bool as_tar : {false, true}) {
    write_ocr(painter_, 3, output("one" + std::to_string(as_tar), as_tar, 1));
    write_ocr(painter_, 3, output("four" + std::to_string(as_tar), as_tar, 4));
    EXPECT_EQ(files_below(folder_.path("one" + std::to_string(as_tar))), files_below(folder_.path("four" + std::to_string(as_tar))));
  }
  EXPECT_EQ(files_below(folder_.path("one1")).size(), 5U) << "three shards, truth.jsonl, ocr.json";
  EXPECT_EQ(files_below(folder_.path("one0")).size(), 13U) << "ten pictures, data.json, truth.jsonl, ocr.json";
}

TEST_F(OcrWriter, FolderAndShardsHoldTheSameSamples) {
  write_ocr(painter_, 3, output("folder"));
  write_ocr(painter_, 3, output("tar", true));
  const ConversationSource files(folder_.path("folder/data.json"));
  ASSERT_EQ(files.size(), 10);
  std::string truth = read_file(folder_.path("folder/truth.jsonl"));
  for (std::int64_t i = 0; i < 10; ++i) {
    const TarSource shard(folder_.path(fmt::format("tar/shard-{:05}.tar", i / 4)));
    const Sample sample = files.at(i), same = shard.at(i % 4);
    EXPECT_EQ(sample.id, same.id);
    EXPECT_EQ(sample.task, "ocr");
    EXPECT_EQ(sample.chat.images.at(0).rgb, same.chat.images.at(0).rgb);
    ASSERT_EQ(sample.chat.turns.size(), 2U);
    for (std::size_t turn = 0; turn < 2; ++turn) EXPECT_EQ(sample.chat.turns[turn].content, same.chat.turns[turn].content);
    // The answer is what the truth says, and what was drawn.
    const Json line = parse_json(truth.substr(0, truth.find('\n')), "truth.jsonl");
    truth.erase(0, truth.find('\n') + 1);
    EXPECT_EQ(line["id"], sample.id);
    EXPECT_EQ(line["size"], Json({sample.chat.images[0].width, sample.chat.images[0].height}));
    std::string text;
    for (const Json& item : line["lines"]) {
      text += (text.empty() ? "" : "\n") + item["text"].get<std::string>();
      EXPECT_EQ(item["quad"].size(), 4U);
    }
    EXPECT_EQ(sample.chat.turns[1].content, text);
    EXPECT_EQ(painter_.draw(i).lines.size(), line["lines"].size());
  }
  const DataCheckReport report = check_data(folder_.path("folder/data.json"), 1);
  EXPECT_EQ(report.kept, 10);
  EXPECT_EQ(check_data(folder_.path("tar/shard-00000.tar"), 1).kept, 4);
}

TEST_F(OcrWriter, ContinuesWhereItStopped) {
  for (const bool as_tar : {false, true}) {
    const std::string whole = "whole" + std::to_string(as_tar), cut = "cut" + std::to_string(as_tar);
    write_ocr(painter_, 3, output(whole, as_tar));
    const auto expected = files_below(folder_.path(whole));
    // As a kill leaves it in the third shard: two are whole, a line and a picture are torn.
    const std::string truth = expected.at("truth.jsonl");
    std::size_t end = 0;
    std::string records;
    for (int i = 0; i < 9; ++i) end = truth.find('\n', end) + 1;
    folder_.write(cut + "/ocr.json", expected.at("ocr.json"));
    folder_.write(cut + "/truth.jsonl.part", truth.substr(0, end) + "{\"id\": \"0000");
    if (as_tar) {
      folder_.write(cut + "/shard-00000.tar", expected.at("shard-00000.tar"));
      folder_.write(cut + "/shard-00001.tar", expected.at("shard-00001.tar"));
      folder_.write(cut + "/shard-00002.tar.part", "half");
    } else {
      for (const Json& record : parse_json(expected.at("data.json"), "data.json")) records += record.dump() + "\n";
      std::size_t records_end = 0;
      for (int i = 0; i < 8; ++i) records_end = records.find('\n', records_end) + 1;
      folder_.write(cut + "/records.part", records.substr(0, records_end + 20));
      for (int i = 0; i < 8; ++i) {
        const std::string name = fmt::format("images/{:08}.jpg", i);
        folder_.write(cut + "/" + name, expected.at(name));
      }
    }
    const auto kept = std::filesystem::last_write_time(folder_.path(cut + (as_tar ? "/shard-00001.tar" : "/images/00000007.jpg")));
    write_ocr(painter_, 3, output(cut, as_tar, 2));
    EXPECT_EQ(files_below(folder_.path(cut)), expected);
    EXPECT_EQ(std::filesystem::last_write_time(folder_.path(cut + (as_tar ? "/shard-00001.tar" : "/images/00000007.jpg"))), kept);
    // Once more: nothing is left to do.
    write_ocr(painter_, 3, output(cut, as_tar));
    EXPECT_EQ(files_below(folder_.path(cut)), expected);
  }
}

TEST_F(OcrWriter, RefusesAFolderThatWasBegunWithOtherSettings) {
  write_ocr(painter_, 3, output("out"));
  const auto error = [&](std::uint64_t seed, const OcrOutput& wanted) { return error_of([&] { write_ocr(painter_, seed, wanted); }); };
  EXPECT_NE(error(4, output("out")).find("ocr.json: the folder was begun with seed = 3, now it is 4"), std::string::npos);
  EXPECT_NE(error(3, output("out", true)).find("tar = false, now it is true"), std::string::npos);
  OcrOutput more = output("out");
  more.count = 11;
  EXPECT_NE(error(3, more).find("count = 10, now it is 11"), std::string::npos);
  OcrConfig config = small();
  config.max_lines = 1;
  EXPECT_NE(error_of([&] { write_ocr(OcrPainter(config, 3), 3, output("out")); }).find("config = "), std::string::npos);
}

TEST_F(OcrWriter, RefusesAnEmptyCountAndAnUnwritableFolder) {
  OcrOutput none = output("none");
  none.count = 0;
  EXPECT_NE(error_of([&] { write_ocr(painter_, 3, none); }).find("count"), std::string::npos);
  folder_.write("file", "");
  EXPECT_NE(error_of([&] { write_ocr(painter_, 3, output("file/x")); }).find("file"), std::string::npos);
}

TEST_F(OcrWriter, SaysWhichLinesAreNotDrawn) {
  OcrConfig config = small();
  config.text = folder_.write("text.txt", "one\n\xff\nمرحبا\nمرحبا\n");
  const OcrPainter painter(config, 1);
  const Json lines = unused_lines_json(painter.text());
  EXPECT_EQ(lines["drawn"], 1);
  EXPECT_EQ(lines["left_out"], 3);
  EXPECT_EQ(lines["reasons"], Json({{"invalid UTF-8", 1}, {"needs shaping", 2}}));
  EXPECT_EQ(lines["listed"][1]["line"], 3);
}

}  // namespace
}  // namespace pocketvlm
