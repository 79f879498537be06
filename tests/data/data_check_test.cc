#include "data/data_check.h"

#include <gtest/gtest.h>

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
