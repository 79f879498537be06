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

}  // namespace
}  // namespace pocketvlm
