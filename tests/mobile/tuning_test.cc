#include "mobile/tuning.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "mobile/cores.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

Tuning some_tuning() {
  Tuning tuning;
  tuning.processor = processor_name();
  tuning.cores = usable_cores();
  tuning.kernels = "scalar";
  tuning.threads = 3;
  tuning.decode_threads = 2;
  tuning.affinity = "fastest";
  tuning.stream_kib = 16;
  tuning.batch_kib = 64;
  tuning.prefill_tokens = 128;
  return tuning;
}

TEST(Tuning, FillsOnlyWhatIsLeftOpen) {
  SessionOptions open;
  apply_tuning(some_tuning(), open);
  EXPECT_EQ(open.kernels, "scalar");
  EXPECT_EQ(open.threads, 3);
  EXPECT_EQ(open.decode_threads, 2);
  EXPECT_EQ(open.affinity, "fastest");
  EXPECT_EQ(open.pieces.stream, 16 * 1024);
  EXPECT_EQ(open.pieces.batch, 64 * 1024);
  EXPECT_EQ(open.prefill_tokens, 128);
  SessionOptions given;
  given.threads = 1;
  given.kernels = "avx2";
  apply_tuning(some_tuning(), given);
  EXPECT_EQ(given.threads, 1);
  EXPECT_EQ(given.decode_threads, 0);  // all of the one
  EXPECT_EQ(given.affinity, "any");
  EXPECT_EQ(given.kernels, "avx2");
}

TEST(Tuning, SurvivesItsFileAndKnowsItsDevice) {
  const Json json = config_to_json(some_tuning());
  const auto back = read_config<Tuning>(json, "t.json");
  EXPECT_EQ(config_to_json(back), json);
  EXPECT_TRUE(made_here(back));
  Tuning other = back;
  other.cores += 1;
  EXPECT_FALSE(made_here(other));
  other = back;
  other.processor += " II";
  EXPECT_FALSE(made_here(other));
  EXPECT_FALSE(processor_name().empty());
}

TEST(Tuning, RefusesMoreDecodingThreadsThanThreads) {
  Tuning tuning = some_tuning();
  tuning.decode_threads = 4;
  EXPECT_THROW(read_config<Tuning>(config_to_json(tuning), "t.json"), Error);
}

TEST(Tuning, TriesEverySettingOnceAndReturnsOneThatRuns) {
  const TinyFiles files = write_tiny_model({});
  TuneOptions options;
  options.prompt_tokens = 40;
  options.gen_tokens = 2;
  options.repeat = 1;
  std::vector<std::string> settings;
  const Tuning tuning =
      tune(files.language, files.mmproj, options, [&](const std::string& setting, const Speeds& s) {
        settings.push_back(setting);
        EXPECT_GT(s.vision_ms_per_slice, 0.0);
        EXPECT_GT(s.prefill_tps, 0.0);
        EXPECT_GT(s.decode_tps, 0.0);
      });
  EXPECT_EQ(settings.front(), "start");
  for (const char* setting : {"affinity fastest", "stream_kib 64", "batch_kib 128", "prefill_tokens 32"})
    EXPECT_EQ(std::count(settings.begin(), settings.end(), setting), 1) << setting;
  EXPECT_TRUE(made_here(tuning));
  EXPECT_GT(tuning.decode_tps, 0.0);
  SessionOptions session_options;
  apply_tuning(tuning, session_options);
  EXPECT_NO_THROW(Session(files.language, files.mmproj, session_options));
}

TEST(Measure, TheMedianIsTheMiddle) {
  EXPECT_EQ(median({3.0, 1.0, 2.0}), 2.0);
  EXPECT_EQ(median({4.0, 1.0, 2.0, 3.0}), 2.5);
  EXPECT_EQ(median({7.0}), 7.0);
}

}  // namespace
}  // namespace pocketvlm
