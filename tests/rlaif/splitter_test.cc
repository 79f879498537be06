#include "rlaif/splitter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

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

TEST(Splitter, AsksInTheWordsOfTheConfig) {
  std::vector<std::string> asked;
  std::mutex mutex;
  test::LoopbackServer server([&](const auto& request, auto& response) {
    const std::string question = test::LoopbackServer::question_of(request);
    {
      const std::lock_guard<std::mutex> lock(mutex);
      asked.push_back(question);
    }
    const char* reply = "- There is a dog.\n- It is brown.";
    if (question.starts_with("Ask")) reply = "- Is there a dog?\n- Is it brown?";
    if (question.find("empty") != std::string::npos) reply = "NONE";
    response.set_content(test::LoopbackServer::reply(reply), "application/json");
  });
  RlaifConfig config;
  config.splitter = server.url();
  const std::string plain = make_light_splitter(config)->identity();
  config.splitter_prompt = "Facts of {answer} ({question}):";
  EXPECT_EQ(make_light_splitter(config)->split({{"what {answer}?", "A {question} dog."}})[0].claims.at(0).question,
            "is it true that There is a dog?");
  EXPECT_EQ(asked, (std::vector<std::string>{"Facts of A {question} dog. (what {answer}?):"})) << "what is put in stays as it is";
  asked.clear();
  config.question_prompt = "Ask:\n{facts}";
  const auto splitter = make_light_splitter(config);
  const auto results = splitter->split({{"what?", "A brown dog."}, {"what?", "empty"}});
  EXPECT_EQ(results[0].claims, (std::vector<Claim>{{"There is a dog.", "Is there a dog?"}, {"It is brown.", "Is it brown?"}}));
  EXPECT_TRUE(results[1].claims.empty() && results[1].problem.empty());
  EXPECT_EQ(std::count(asked.begin(), asked.end(), "Ask:\n- There is a dog.\n- It is brown."), 1);
  EXPECT_EQ(asked.size(), 3u) << "an answer without facts is not asked about";
  EXPECT_NE(splitter->identity(), plain);
}

TEST(Splitter, KeepsFactsAndQuestionsInStep) {
  const SplitResult facts = read_split("- There is a dog.\n- It is brown.");
  EXPECT_EQ(with_questions(facts, "- Is there a dog?").problem, "2 facts, but 1 questions");
  EXPECT_TRUE(with_questions(facts, "").claims.empty());
  // A question that two facts share counts once.
  EXPECT_EQ(with_questions(facts, "### Questions\n- Is it?\n\n2. Is it?").claims, (std::vector<Claim>{{"There is a dog.", "Is it?"}}));
}

TEST(Splitter, RefusesWordsThatNobodyWouldBeAsked) {
  const auto error = [](const Json& changes) {
    Json json = config_to_json(RlaifConfig{});
    json["policy"] = json["judge"] = "p";
    json.update(changes);
    try {
      read_config<RlaifConfig>(json, "loop.json");
    } catch (const Error& problem) {
      return std::string(problem.what());
    }
    return std::string();
  };
  EXPECT_EQ(error({{"splitter_detail", "attributes"}}), "");
  EXPECT_NE(error({{"splitter_detail", "attributes"}, {"splitter", "whole"}}).find("is for the splitter \"rules\""), std::string::npos);
  EXPECT_NE(error({{"splitter_prompt", "{answer}"}}).find("are for a splitter that is a model"), std::string::npos);
  EXPECT_NE(error({{"splitter", "whole"}, {"question_prompt", "{facts}"}}).find("are for a splitter that is a model"), std::string::npos);
  EXPECT_NE(error({{"splitter", "folder"}, {"splitter_prompt", "divide"}}).find("has no {answer}"), std::string::npos);
  EXPECT_NE(error({{"splitter", "folder"}, {"question_prompt", "ask"}}).find("has no {facts}"), std::string::npos);
  EXPECT_EQ(error({{"splitter", "folder"}, {"splitter_prompt", "divide {answer}"}, {"question_prompt", "ask {facts}"}}), "");
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
