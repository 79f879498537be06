#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/files.h"
#include "loopback_server.h"
#include "rlaif/round.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

using test::LoopbackServer;

// A round whose judge is a server: answers and claims are made once, each test judges a copy of them.
class ServerRound : public testing::Test {
 protected:
  void SetUp() override {
    static const std::string claims = [] {
      RoundInputs inputs;
      inputs.policy = test::tiny_policy_folder();
      inputs.folder = test::test_folder() + "/server-claims";
      for (const char* stage : {"sample", "split"}) run_stage_alone(test::tiny_round(), inputs, stage);
      return inputs.folder;
    }();
    folder_ = test::test_folder() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(claims, folder_, std::filesystem::copy_options::recursive);
    config_.judge = server_.url();
    config_.judge_server.attempts = 2;
    config_.judge_server.first_wait_s = 0.01;
    config_.judge_server.concurrency = 2;
  }

  Json judge() {
    RoundInputs inputs;
    inputs.policy = test::tiny_policy_folder();
    inputs.judge = config_.judge;
    inputs.folder = folder_;
    return run_stage_alone(config_, inputs, "judge");
  }
  std::vector<Json> rows() const { return test::read_lines(folder_ + "/verdicts.jsonl"); }

  static void say(httplib::Response& response, int status, const std::string& body) {
    response.status = status;
    response.set_content(body, "application/json");
  }

  RlaifConfig config_ = test::tiny_round();
  std::string folder_;
  std::function<void(const std::string& question, httplib::Response& response)> answer_ = [](const auto& question, auto& response) {
    const double p_yes = question.find("cat") != std::string::npos ? 0.75 : 0.25;
    say(response, 200, LoopbackServer::reply(p_yes > 0.5 ? "Yes" : "No", p_yes));
  };
  std::atomic<int> asked_{0};
  LoopbackServer server_{[this](const auto& request, auto& response) {
    ++asked_;
    answer_(LoopbackServer::question_of(request), response);
  }};
};

TEST_F(ServerRound, GivesUpAndGoesOnWithoutAskingTwice) {
  const auto up = answer_;
  std::atomic<int> left{9};
  answer_ = [&](const std::string& question, httplib::Response& response) {
    if (left-- > 0) return up(question, response);
    say(response, 503, R"({"error": {"message": "gone for lunch"}})");
  };
  const std::string error = test::error_of([&] { judge(); });
  EXPECT_NE(error.find("after 2 tries"), std::string::npos) << error;
  EXPECT_NE(error.find("gone for lunch"), std::string::npos) << error;
  const std::vector<Json> kept = rows();
  ASSERT_GT(kept.size(), 0u);  // by picture, though prompts are grouped by three
  std::map<std::int64_t, int> pictures;
  for (const Json& row : kept) ++pictures[row.at("index").get<std::int64_t>()];

  answer_ = up;
  asked_ = 0;
  const Json figures = judge();
  const std::vector<Json> whole = rows();
  EXPECT_EQ(figures.at("judge").at("questions"), whole.size());
  EXPECT_EQ(asked_, static_cast<int>(whole.size() - kept.size()));  // what lay there was not asked again
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(whole[i], kept[i]);
  for (const Json& row : whole)
    EXPECT_EQ(row.at("accepted").get<bool>(), row.at("question").get<std::string>().find("cat") != std::string::npos) << row;
  // Whole pictures alone are kept.
  std::map<std::int64_t, int> of_whole;
  for (const Json& row : whole) ++of_whole[row.at("index").get<std::int64_t>()];
  for (const auto& [index, count] : pictures) EXPECT_EQ(count, of_whole.at(index)) << index;
  asked_ = 0;
  judge();
  EXPECT_EQ(asked_, 0);
}

TEST_F(ServerRound, CountsAQuestionThatIsRefused) {
  const auto up = answer_;
  std::atomic<bool> first{true};
  answer_ = [&](const std::string& question, httplib::Response& response) {
    if (!first.exchange(false)) return up(question, response);
    say(response, 400, R"({"error": {"message": "content policy"}})");
  };
  const Json figures = judge();
  EXPECT_EQ(figures.at("judge").at("refused"), 1);
  int refused = 0;
  for (const Json& row : rows()) {
    if (!row.contains("problem")) continue;
    ++refused;
    EXPECT_EQ(row.at("problem"), "refused by the server: content policy");
    EXPECT_FALSE(row.at("accepted").get<bool>());
  }
  EXPECT_EQ(refused, 1);
  bool told = false;
  for (const Json& one : read_json(folder_ + "/odd_cases.json"))
    told |= one.at("what") == "questions that the judge's server refused" && one.at("count") == 1;
  EXPECT_TRUE(told);
}

TEST_F(ServerRound, StopsWhereMostQuestionsAreRefused) {
  const auto up = answer_;
  answer_ = [&](const std::string&, httplib::Response& response) {
    say(response, 400, R"({"error": {"message": "no such model"}})");
  };
  const std::string error = test::error_of([&] { judge(); });
  EXPECT_NE(error.find("requests were refused; the last: refused by the server: no such model"), std::string::npos) << error;
  EXPECT_TRUE(rows().empty());  // they are asked again
  answer_ = up;
  EXPECT_EQ(judge().at("judge").at("refused"), 0);
}

}  // namespace
}  // namespace pocketvlm
