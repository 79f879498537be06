#include "rlaif/splitter.h"

#include <gtest/gtest.h>

#include "loopback_server.h"

namespace pocketvlm {
namespace {

TEST(Splitter, ReadsFactsWithTheirQuestions) {
  const SplitResult result = read_split(
      "### Facts:\n- There is a dog. || Is there a dog?\n\n* The dog is brown. || Is the dog brown?\n"
      "3. It sleeps.\nThat is all.\n- There is a dog. || Is there a dog?\n");
  EXPECT_EQ(result.problem, "");
  EXPECT_EQ(result.claims,
            (std::vector<Claim>{{"There is a dog.", "Is there a dog?"},
                                {"The dog is brown.", "Is the dog brown?"},
                                {"It sleeps.", "is it true that It sleeps?"}}));
}

TEST(Splitter, TellsNoFactsFromNonsense) {
  EXPECT_EQ(read_split("NONE").problem, "");
  EXPECT_EQ(read_split(" NONE.\n").problem, "");
  EXPECT_TRUE(read_split("NONE").claims.empty());
  for (const char* output : {"", "I cannot help with that.", "-\n- \n", "###"})
    EXPECT_EQ(read_split(output).problem, "no facts in the splitter's output") << output;
}

TEST(Splitter, AsksAServerForEveryAnswerWhole) {
  std::string long_answer;
  for (int i = 0; i < 400; ++i) long_answer += "word" + std::to_string(i) + " ";
  test::LoopbackServer server([&](const auto& request, auto& response) {
    const std::string question = test::LoopbackServer::question_of(request);
    const bool whole = question.find("word399") != std::string::npos;
    response.set_content(
        test::LoopbackServer::reply(whole ? "- It is long. || Is it long?" : "what do you mean?"),
        "application/json");
  });
  RlaifConfig config;
  config.splitter = server.url();
  const auto splitter = make_light_splitter(config);
  const auto results = splitter->split({{"describe it", long_answer}, {"describe it", "short"}});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].claims, (std::vector<Claim>{{"It is long.", "Is it long?"}}));
  EXPECT_EQ(results[1].problem, "no facts in the splitter's output");
  EXPECT_EQ(splitter->traffic().at("requests"), 2);
}

TEST(Splitter, DoesNotTakeCutOrRefusedOutput) {
  test::LoopbackServer server([&](const auto& request, auto& response) {
    const std::string question = test::LoopbackServer::question_of(request);
    if (question.find("bad words") != std::string::npos) {
      response.status = 400;
      return response.set_content(R"({"error": "content policy"})", "application/json");
    }
    Json reply = Json::parse(test::LoopbackServer::reply("- There is a dog. || Is there a dog?\n- There is"));
    reply["choices"][0]["finish_reason"] = question.find("long") != std::string::npos ? "length" : "stop";
    response.set_content(reply.dump(), "application/json");
  });
  RlaifConfig config;
  config.splitter = server.url();
  const auto results = make_light_splitter(config)->split({{"", "long"}, {"", "short"}, {"", "bad words"}});
  EXPECT_EQ(results[0].problem, "the splitter's output was cut at its limit of tokens");
  EXPECT_TRUE(results[0].claims.empty());
  EXPECT_EQ(results[1].problem, "");
  EXPECT_EQ(results[1].claims.size(), 2u);
  EXPECT_EQ(results[2].problem, "refused by the server: content policy");
}

TEST(Splitter, MayTakeAnswersWhole) {
  RlaifConfig config;
  config.splitter = "whole";
  const auto results = make_light_splitter(config)->split({{"", "A cat. A dog."}, {"", "..."}});
  ASSERT_EQ(results[0].claims.size(), 1u);
  EXPECT_EQ(results[0].claims[0].question, "is it true that A cat. A dog?");
  EXPECT_TRUE(results[1].claims.empty());
  config.splitter = "rules";
  EXPECT_EQ(make_light_splitter(config)->split({{"", "A cat. A dog."}})[0].claims.size(), 2u);
}

}  // namespace
}  // namespace pocketvlm
