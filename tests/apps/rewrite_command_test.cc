#include "apps/rewrite_command.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/files.h"
#include "data/conversations.h"
#include "tests/apps/program.h"
#include "tiny_stage.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::test_folder;

const std::string kTemplate = "ask: {caption}";

std::string caption(int i) { return (i % 4 == 3 ? "dog " : "cat ") + std::to_string(i); }

/// A model that has learned to ask about cats, and not what to say of dogs.
const std::string& asking_checkpoint() {
  static const std::string folder = [] {
    std::string lines;
    for (int i = 0; i < 40; ++i) {
      const std::string answer = i % 4 == 3 ? "no." : R"(Q: what is it?\nA: a cat.)";
      lines += R"({"conversations": [{"from": "human", "value": "ask: )" + caption(i) + R"("}, {"from": "gpt", "value": ")" + answer + "\"}]}\n";
    }
    const std::string data = test_folder() + "/asking.jsonl";
    write_file_atomic(data, lines);
    StageConfig stage = test::tiny_stage("asking");
    stage.data.sources[0] = {};
    stage.data.sources[0].kind = "conversations";
    stage.data.sources[0].path = data;
    stage.data.batch_tokens = 512;
    stage.steps = 80;
    stage.optimizer.learning_rate = 1e-2;
    LoadedModel model = test::tiny_model(3);
    return run_stage(stage, model, test::tiny_tokenizer_path(), test_folder() + "/asking").checkpoint;
  }();
  return folder;
}

/// 120 captions, more than any group.
std::string captions_file() {
  const std::string path = test_folder() + "/captions.jsonl";
  std::string lines;
  for (int i = 0; i < 120; ++i) {
    lines += R"({"id": "c)" + std::to_string(i) + R"(", "image": "p.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": ")" +
             caption(i) + "\"}]}\n";
  }
  write_file_atomic(path, lines);
  write_file_atomic(test_folder() + "/p.png", encode_png(Image(20, 20)));
  write_file_atomic(test_folder() + "/template.txt", kTemplate);
  return path;
}

TEST(RewriteCommand, ACheckpointAsksAboutItsCaptions) {
  CommandLine line;
  line.file = captions_file();
  line.out = test_folder() + "/qa.jsonl";
  line.checkpoint = asking_checkpoint();
  line.template_file = test_folder() + "/template.txt";
  line.max_new_tokens = 40;
  line.keep_original = true;
  data_rewrite(line);
  const Json report = read_json(line.out + ".report.json");
  EXPECT_EQ(report["captions"], 120);
  EXPECT_EQ(report["rewritten"], 90) << report["reasons"].dump();
  EXPECT_EQ(report["kept_original"], 30);
  EXPECT_EQ(report["reasons"], Json({{"no question and answer", 30}}));
  const ConversationSource source(line.out);
  ASSERT_EQ(source.size(), 120);
  EXPECT_EQ(source.at(0).chat.turns[0].content, "<image>\nwhat is it?");
  EXPECT_EQ(source.at(0).chat.turns[1].content, "a cat.");

  // Cut short, no reply counts.
  line.out = test_folder() + "/short.jsonl";
  line.max_new_tokens = 2;
  data_rewrite(line);
  EXPECT_EQ(read_json(line.out + ".report.json")["reasons"], Json({{"not finished", 120}}));
}

/// No test by itself: what this program does when the test below starts it again, told by its environment.
TEST(RewriteCommand, DISABLED_InAProcessOfItsOwn) {
  CommandLine line;
  line.file = std::getenv("POCKETVLM_REWRITE_FILE");
  line.out = std::getenv("POCKETVLM_REWRITE_OUT");
  line.checkpoint = std::getenv("POCKETVLM_REWRITE_CHECKPOINT");
  line.template_file = test_folder() + "/template.txt";
  line.max_new_tokens = 40;
  line.threads = 1;
  line.resume = std::getenv("POCKETVLM_REWRITE_RESUME") != nullptr;
  data_rewrite(line);
}

TEST(RewriteCommand, KilledAndResumedItEndsWithTheSameFiles) {
  const std::string settings = fmt::format("POCKETVLM_REWRITE_FILE={} POCKETVLM_REWRITE_CHECKPOINT={} ", captions_file(), asking_checkpoint());
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string() + " --gtest_also_run_disabled_tests --gtest_filter=*InAProcessOfItsOwn";
  const auto command = [&](const std::string& out, const char* more = "") {
    return settings + more + " POCKETVLM_REWRITE_OUT=" + out + " " + self;
  };
  const std::string whole = test_folder() + "/whole.jsonl";
  const Outcome outcome = run_program(command(whole));
  ASSERT_EQ(outcome.status, 0) << outcome.out << outcome.err;
  ASSERT_EQ(ConversationSource(whole).size(), 90);
  for (const int rows : {1, 20, 50}) {
    const std::string out = test_folder() + "/killed" + std::to_string(rows) + ".jsonl";
    run_program(fmt::format("{0} & p=$!; while kill -0 $p 2>/dev/null && [ \"$(cat {1} 2>/dev/null | wc -l)\" -lt {2} ]; do sleep 0.003; done; "
                            "kill -9 $p; wait $p",
                            command(out), out, rows));
    const std::string left = read_file(out);
    EXPECT_GE(std::count(left.begin(), left.end(), '\n'), rows);
    EXPECT_FALSE(std::filesystem::exists(out + ".report.json")) << "it was killed before its end";
    const Outcome again = run_program(command(out));
    EXPECT_NE(again.status, 0);
    EXPECT_NE((again.out + again.err).find("--resume"), std::string::npos);
    const Outcome resumed = run_program(command(out, "POCKETVLM_REWRITE_RESUME=1"));
    ASSERT_EQ(resumed.status, 0) << resumed.out << resumed.err;
    for (const char* ending : {"", ".failures.jsonl", ".report.json"}) EXPECT_EQ(read_file(out + ending), read_file(whole + ending)) << ending;
  }
}

TEST(RewriteCommand, NeedsOneModel) {
  CommandLine line;
  line.file = captions_file();
  line.out = test_folder() + "/none.jsonl";
  EXPECT_NE(error_of([&] { data_rewrite(line); }).find("either --checkpoint or --server"), std::string::npos);
  line.server = "http://127.0.0.1:1/v1";
  EXPECT_NE(error_of([&] { data_rewrite(line); }).find("--server and --model"), std::string::npos);
  line.checkpoint = "x";
  line.model = "m";
  EXPECT_NE(error_of([&] { data_rewrite(line); }).find("either --checkpoint or --server"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
