#include "apps/caption_rewriting.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "apps/server_answers.h"
#include "base/files.h"
#include "data/conversations.h"
#include "data/data_check.h"
#include "tests/data/test_data.h"
#include "tests/rlaif/loopback_server.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::LoopbackServer;
using test::TestFolder;

std::string caption_of(const std::string& prompt) { return prompt.substr(prompt.find("Caption: ") + 9); }

/// What a good model says: deterministic, and of no use for captions that say so.
std::string good_reply(const std::string& caption) {
  return caption.find("bad") != std::string::npos ? "I cannot help with that." : "Q: What is it?\nA: " + caption + "\nQ: Sure?\nA: Yes.";
}

class CaptionRewritingTest : public testing::Test {
 protected:
  CaptionRewritingTest() { folder_.write("data/good.png", encode_png(test::test_picture(20, 20))); }

  static std::string captioned(const std::string& id, const std::string& caption) {
    return R"({"id": ")" + id + R"(", "image": "good.png", "language": "en", "conversations": [{"from": "human", "value": "<image>\nDescribe."}, )" +
           R"({"from": "gpt", "value": ")" + caption + R"("}]})";
  }

  CaptionRewriting wanted(const std::string& out) const {
    CaptionRewriting wanted;
    wanted.data = data_;
    wanted.out = folder_.path(out);
    wanted.model = "m";
    wanted.group = 4;
    return wanted;
  }

  /// Ten captions, of which two get a bad reply, and three records that are none.
  void write_data() {
    std::string lines;
    for (int i = 0; i < 10; ++i) lines += captioned("c" + std::to_string(i), (i % 5 == 3 ? "bad " : "thing ") + std::to_string(i)) + "\n";
    lines += R"({"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]})" "\n";
    lines += "{broken\n";
    lines += captioned("c0", "thing 0") + "\n";  // once more
    data_ = folder_.write("data/data.jsonl", lines);
  }

  PromptAnswerer counting() {
    return [this](const std::vector<std::string>& prompts) {
      std::vector<ModelReply> replies;
      for (const std::string& prompt : prompts) {
        ++asked_;
        replies.push_back({good_reply(caption_of(prompt)), ""});
      }
      return replies;
    };
  }

  std::map<std::string, std::string> files(const std::string& out) const {
    std::map<std::string, std::string> found;
    for (const char* ending : {"", ".failures.jsonl", ".report.json"}) found[ending] = read_file(folder_.path(out) + ending);
    return found;
  }

  TestFolder folder_;
  std::string data_;
  int asked_ = 0;
};

TEST_F(CaptionRewritingTest, WritesTrainingDataInTheOrderOfTheCaptions) {
  write_data();
  const Json report = rewrite_captions(wanted("elsewhere/out.jsonl"), counting());
  EXPECT_EQ(report["samples"], 13);
  EXPECT_EQ(report["captions"], 11);
  EXPECT_EQ(report["rewritten"], 8);
  EXPECT_EQ(report["pairs"], 16);
  EXPECT_EQ(report["failed"], 4);
  EXPECT_EQ(report["kept_original"], 0);
  EXPECT_EQ(report["reasons"], Json({{"damaged: invalid JSON", 1}, {"no caption", 1}, {"no question and answer", 2}}));
  EXPECT_EQ(report["listed"].size(), 4U);
  EXPECT_EQ(asked_, 10);
  EXPECT_EQ(parse_json(files("elsewhere/out.jsonl").at(".report.json"), "report")["rewritten"], 8);

  const ConversationSource source(folder_.path("elsewhere/out.jsonl"));
  ASSERT_EQ(source.size(), 8);
  const Sample first = source.at(0);
  EXPECT_EQ(first.id, "c0");
  EXPECT_EQ(first.task, "vqa");
  EXPECT_EQ(first.chat.images.at(0).width, 20);  // found from the other folder
  ASSERT_EQ(first.chat.turns.size(), 4U);
  EXPECT_EQ(first.chat.turns[0].content, "<image>\nWhat is it?");
  EXPECT_EQ(first.chat.turns[1].content, "thing 0");
  EXPECT_EQ(first.chat.turns[2].content, "Sure?");
  EXPECT_EQ(source.at(7).id, "c9");
  EXPECT_EQ(check_data(folder_.path("elsewhere/out.jsonl"), 1).kept, 8);
}

TEST_F(CaptionRewritingTest, KeepsWhatFailsAsItWas) {
  write_data();
  CaptionRewriting keep = wanted("out.jsonl");
  keep.keep_original = true;
  const Json report = rewrite_captions(keep, counting());
  EXPECT_EQ(report["rewritten"], 8);
  EXPECT_EQ(report["kept_original"], 3);
  EXPECT_EQ(report["failed"], 4);
  const ConversationSource source(folder_.path("out.jsonl"));
  ASSERT_EQ(source.size(), 11);
  EXPECT_EQ(source.at(3).chat.turns[1].content, "bad 3");
  EXPECT_EQ(source.at(3).chat.images.at(0).width, 20);
  EXPECT_EQ(source.at(10).chat.turns[1].content, "Hello.");
}

TEST_F(CaptionRewritingTest, StoppedAnywhereItEndsWithTheSameFiles) {
  write_data();
  for (const bool keep_original : {false, true}) {
    CaptionRewriting whole = wanted(fmt::format("whole{}.jsonl", keep_original));
    whole.keep_original = keep_original;
    rewrite_captions(whole, counting());
    const auto expected = files(fmt::format("whole{}.jsonl", keep_original));
    // A kill leaves a beginning of the rows and of the failures, which are written before them.
    const std::string &rows = expected.at(""), &failures = expected.at(".failures.jsonl");
    for (std::size_t cut = 0; cut <= rows.size(); cut += 97) {
      for (const std::size_t failures_cut : {std::size_t{0}, failures.size() / 2, failures.size()}) {
        const std::string out = "cut.jsonl";
        folder_.write(out, rows.substr(0, cut));
        folder_.write(out + ".failures.jsonl", failures.substr(0, failures_cut));
        CaptionRewriting again = whole;
        again.out = folder_.path(out);
        again.resume = true;
        const Json report = rewrite_captions(again, counting());
        EXPECT_EQ(files(out).at(""), rows) << cut << ", " << failures_cut;
        EXPECT_EQ(report["rewritten"], 8);
      }
    }
  }
}

TEST_F(CaptionRewritingTest, StoppedBetweenGroupsOrWithinOneItEndsWithTheSameBytes) {
  write_data();
  for (const bool keep_original : {false, true}) {
    CaptionRewriting whole = wanted(fmt::format("all{}.jsonl", keep_original));
    whole.keep_original = keep_original;
    rewrite_captions(whole, counting());
    const auto expected = files(fmt::format("all{}.jsonl", keep_original));
    for (int stop = 0; stop < 3; ++stop) {
      CaptionRewriting part = whole;
      part.out = folder_.path(fmt::format("part{}{}.jsonl", keep_original, stop));
      int groups = 0;
      const PromptAnswerer stopping = [&](const std::vector<std::string>& prompts) {
        PV_CHECK(groups++ < stop, "stopped");
        return counting()(prompts);
      };
      EXPECT_EQ(error_of([&] { rewrite_captions(part, stopping); }), "stopped");
      // The last row is torn as by a kill in the middle of a write.
      const std::string rows = read_file(part.out);
      folder_.write(std::filesystem::path(part.out).filename().string(), rows.substr(0, rows.empty() ? 0 : rows.size() - 5));
      part.resume = true;
      rewrite_captions(part, counting());
      EXPECT_EQ(files(std::filesystem::path(part.out).filename().string()), expected) << keep_original << ", " << stop;
    }
  }
}

TEST_F(CaptionRewritingTest, RowsOfTheSameCaptionTemplateAndModelAreKept) {
  write_data();
  CaptionRewriting again = wanted("out.jsonl");
  rewrite_captions(again, counting());
  again.resume = true;
  asked_ = 0;
  rewrite_captions(again, counting());
  EXPECT_EQ(asked_, 0);
  again.model = "another";
  rewrite_captions(again, counting());
  EXPECT_EQ(asked_, 10);
  again.prompt_template = "Other words. Caption: {caption}";
  asked_ = 0;
  rewrite_captions(again, counting());
  EXPECT_EQ(asked_, 10);
}

TEST_F(CaptionRewritingTest, MovesThePathsOfListsMapsAndVideos) {
  folder_.write("data/clip/1.png", encode_png(test::test_picture(8, 8)));
  const std::string turns = R"("conversations": [{"from": "human", "value": "Describe."}, {"from": "gpt", "value": "thing"}]})";
  data_ = folder_.write("data/data.json",
                        R"([{"id": "map", "image": {"<image_00>": "good.png", "<image_01>": "clip/1.png"}, )" + turns +
                            R"(, {"id": "video", "video": "clip", "video_fps": 1, )" + turns + R"(, {"id": "whole", "image": ")" +
                            folder_.path("data/good.png") + R"(", )" + turns + "]");
  rewrite_captions(wanted("deep/er/out.jsonl"), counting());
  const ConversationSource source(folder_.path("deep/er/out.jsonl"));
  ASSERT_EQ(source.size(), 3);
  EXPECT_EQ(source.at(0).chat.images.size(), 2U);
  EXPECT_EQ(source.at(0).chat.images.at(1).width, 8);
  EXPECT_EQ(source.at(0).chat.turns[0].content, "<image>\n<image>\nWhat is it?");
  EXPECT_TRUE(source.at(1).is_video);
  EXPECT_EQ(source.at(1).chat.images.at(0).width, 8);
  EXPECT_EQ(source.at(2).chat.images.at(0).width, 20);
}

TEST_F(CaptionRewritingTest, MistakesAreErrors) {
  write_data();
  const auto error = [&](const CaptionRewriting& rewriting) { return error_of([&] { rewrite_captions(rewriting, counting()); }); };
  EXPECT_NE(error(wanted("out.json")).find("name a .jsonl file"), std::string::npos);
  CaptionRewriting itself = wanted("out.jsonl");
  itself.out = data_;
  EXPECT_NE(error(itself).find("is the data itself"), std::string::npos);
  folder_.write("there.jsonl", "");
  EXPECT_NE(error(wanted("there.jsonl")).find("continue it with --resume"), std::string::npos);
  CaptionRewriting unmarked = wanted("out.jsonl");
  unmarked.prompt_template = "Rewrite it.";
  EXPECT_NE(error(unmarked).find("must hold {caption} once"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_.path("out.jsonl")));
  CaptionRewriting absent = wanted("out.jsonl");
  absent.data = folder_.path("absent.json");
  EXPECT_NE(error(absent).find("absent.json"), std::string::npos);
}

TEST_F(CaptionRewritingTest, AsksAServerAndStandsItsFaults) {
  write_data();
  std::atomic<int> requests{0};
  LoopbackServer server([&](const auto& request, auto& response) {
    const int number = requests++;
    if (number == 1) {
      response.status = 500;
      response.set_content("overloaded", "text/plain");
      return;
    }
    if (number == 3) return response.set_content("{\"choices\": [", "application/json");
    const std::string caption = caption_of(LoopbackServer::question_of(request));
    if (caption == "thing 7") {
      response.status = 400;
      return response.set_content(R"({"error": {"message": "the prompt exceeds the context"}})", "application/json");
    }
    response.set_content(LoopbackServer::reply(good_reply(caption)), "application/json");
  });
  ServerConfig config;
  config.first_wait_s = 0.01;
  ChatClient client(server.url(), config);
  const Json report = rewrite_captions(wanted("out.jsonl"), server_answers(client, 64));
  EXPECT_EQ(report["rewritten"], 7);
  EXPECT_EQ(report["reasons"],
            Json({{"damaged: invalid JSON", 1}, {"no caption", 1}, {"no question and answer", 2}, {"too long for the model", 1}}));
  EXPECT_EQ(client.traffic().failures, (std::map<std::string, std::int64_t>{{"damaged reply", 1}, {"status 500", 1}}));
  EXPECT_EQ(requests, 12);
}

TEST_F(CaptionRewritingTest, AServerThatIsGoneEndsItAndResumeContinues) {
  write_data();
  bool gone = true;
  int served = 0;
  LoopbackServer server([&](const auto& request, auto& response) {
    if (gone && ++served > 5) {
      response.status = 503;
      return;
    }
    response.set_content(LoopbackServer::reply(good_reply(caption_of(LoopbackServer::question_of(request)))), "application/json");
  });
  ServerConfig config;
  config.first_wait_s = 0.001;
  config.attempts = 2;
  config.concurrency = 1;
  ChatClient client(server.url(), config);
  CaptionRewriting rewriting = wanted("out.jsonl");
  EXPECT_NE(error_of([&] { rewrite_captions(rewriting, server_answers(client, 64)); }).find("start again with --resume"), std::string::npos);
  EXPECT_EQ(ConversationSource(rewriting.out).size(), 3) << "the first group is kept";
  gone = false;
  rewriting.resume = true;
  rewrite_captions(rewriting, server_answers(client, 64));
  rewrite_captions(wanted("whole.jsonl"), counting());
  EXPECT_EQ(read_file(rewriting.out), read_file(folder_.path("whole.jsonl")));
}

}  // namespace
}  // namespace pocketvlm
