#include <gtest/gtest.h>

#include "base/files.h"
#include "tests/apps/program.h"

namespace pocketvlm {
namespace {

TEST(PhoneProgram, LinksNoneOfTheTrainersLibraries) {
  const Outcome outcome = run_program("readelf -d " + program("pocketvlm-mobile"));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("NEEDED"), std::string::npos);
  for (const char* library : {"torch", "c10", "opencv", "mpi", "sentencepiece", "freetype", "gomp"}) {
    EXPECT_EQ(outcome.out.find(library), std::string::npos) << library << "\n" << outcome.out;
  }
}

TEST(PhoneProgram, AnswersHelpAndMistakes) {
  EXPECT_EQ(run_program(program("pocketvlm-mobile") + " --help").status, 0);
  const Outcome missing = run_program(program("pocketvlm-mobile") + " info /nowhere/model.gguf --json");
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.err.find("/nowhere/model.gguf"), std::string::npos) << missing.err;
  EXPECT_TRUE(missing.out.empty());
}

TEST(PhoneProgram, RefusesAFileThatIsNotGguf) {
  const std::string path = testing::TempDir() + "/not.gguf";
  write_file_atomic(path, "this is no model");
  const Outcome outcome = run_program(program("pocketvlm-mobile") + " info " + path + " --json");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find(path), std::string::npos) << outcome.err;
}

/// What scripts/test.sh ends with.
TEST(ListSkipped, TellsTheReasonOfEachTest) {
  const std::string log = testing::TempDir() + "/last_test.log";
  write_file_atomic(log,
                    "[ RUN      ] Peer.Answers\n../../peer_test.cc:32: Skipped\npython3 has no package:\ninstall it\n\n[  SKIPPED ] Peer.Answers (34 ms)\n"
                    "[ RUN      ] Other.Runs\n[       OK ] Other.Runs (1 ms)\n[  SKIPPED ] 1 test, listed below:\n[  SKIPPED ] Peer.Answers\n");
  const Outcome listed = run_program(SOURCE_ROOT "/scripts/list_skipped.sh " + log);
  EXPECT_EQ(listed.status, 0) << listed.err;
  EXPECT_EQ(listed.out, "Skipped:\n  Peer.Answers: python3 has no package: install it\n");
  write_file_atomic(log, "[ RUN      ] Other.Runs\n[       OK ] Other.Runs (1 ms)\n");
  EXPECT_EQ(run_program(SOURCE_ROOT "/scripts/list_skipped.sh " + log).out, "");
}

}  // namespace
}  // namespace pocketvlm
