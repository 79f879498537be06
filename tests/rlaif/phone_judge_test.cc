#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "apps/mobile_chat_server.h"
#include "exporter/export.h"
#include "mobile/session.h"
#include "rlaif/checkpoint_judge.h"
#include "tiny_round.h"

/// A real server as judge: the tiny judge's checkpoint, exported and served by the phone's program over HTTP on loopback.
namespace pocketvlm {
namespace {

class ServedJudge {
 public:
  explicit ServedJudge(const std::string& checkpoint) {
    const std::string folder = test::test_folder() + "/served-judge";
    std::filesystem::create_directories(folder);
    const ExportedFiles files = export_gguf(checkpoint, "f32", "f32", folder);
    SessionOptions options;
    options.threads = 1;
    session_.emplace(files.language, files.mmproj, options);
    ChatServerOptions server;
    server.port = 0;
    server.model_name = "tiny-judge";
    server_.emplace(*session_, MobileSampling(), server);
    port_ = server_->bind();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~ServedJudge() {
    server_->stop();
    thread_.join();
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/v1"; }

 private:
  std::optional<Session> session_;
  std::optional<ChatServer> server_;
  int port_ = 0;
  std::thread thread_;
};

TEST(PhoneJudge, SaysOverHttpWhatTheCheckpointSays) {
  RlaifConfig config = test::tiny_round();
  CheckpointJudge checkpoint(test::tiny_judge_folder(), config);
  const ServedJudge served(test::tiny_judge_folder());
  config.judge = served.url();
  config.judge_server.model = "tiny-judge";
  config.judge_server.concurrency = 2;
  const std::unique_ptr<Judge> judge = make_judge(config, "");
  const std::vector<std::string> questions = {"is there a cat in the picture?",
                                              "is there a dog on the left?",
                                              "are there two cars in the picture?",
                                              "is it true that a tree sleeps?"};
  double smallest = 1, largest = 0;
  for (std::int64_t i = 0; i < 4; ++i) {
    const Image image = test::tiny_pictures()(i);
    const std::vector<Verdict> expected = checkpoint.verdicts(image, questions);
    const std::vector<Verdict> told = judge->verdicts(image, questions);
    ASSERT_EQ(told.size(), questions.size());
    for (std::size_t q = 0; q < questions.size(); ++q) {
      EXPECT_EQ(told[q].problem, "");
      // Both compute in float32, in another order of sums.
      EXPECT_NEAR(told[q].p_yes, expected[q].p_yes, 1e-4) << questions[q];
      EXPECT_NEAR(told[q].p_no, expected[q].p_no, 1e-4) << questions[q];
      EXPECT_GT(told[q].p_yes, 0);
      EXPECT_GT(told[q].p_no, 0);
      smallest = std::min(smallest, told[q].p_yes);
      largest = std::max(largest, told[q].p_yes);
    }
  }
  EXPECT_GT(largest - smallest, 1e-2) << "a judge that says the same of everything would show nothing";
  EXPECT_EQ(judge->traffic().at("requests"), 16);
  EXPECT_EQ(judge->traffic().at("tries_again"), 0);
}

}  // namespace
}  // namespace pocketvlm
