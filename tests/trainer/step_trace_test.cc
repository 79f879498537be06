#include "trainer/step_trace.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/stage.h"

namespace pocketvlm {
namespace {

std::string folder(const std::string& name) { return test::test_folder() + "/" + name; }

StageConfig traced_stage(const std::string& name) {
  StageConfig config = test::tiny_stage(name);
  config.steps = 4;
  config.accumulation = 2;
  config.trace = StepTraceConfig{.first_step = 2, .steps = 2};
  return config;
}

/// How often each name occurs among the events of a trace.
std::map<std::string, int> events_of(const std::string& path) {
  std::map<std::string, int> counts;
  const Json trace = parse_json(read_file(path), path);
  for (const Json& event : trace.at("traceEvents")) {
    if (event.value("ph", "") == "X") ++counts[event.at("name").get<std::string>()];
  }
  return counts;
}

TEST(StepTrace, HoldsThePhasesAndProductsOfItsSteps) {
  const StageConfig config = traced_stage("traced");
  LoadedModel model = test::tiny_model(1);
  run_stage(config, model, test::tiny_tokenizer_path(), folder("traced"));
  std::map<std::string, int> counts = events_of(folder("traced") + "/trace.json");
  // Two steps of two packs each.
  for (const char* phase : {"loading", "forward", "backward"}) EXPECT_EQ(counts[phase], 4) << phase;
  for (const char* phase : {"reduce", "update", "spread"}) EXPECT_EQ(counts[phase], 2) << phase;
  EXPECT_GT(counts["aten::addmm"] + counts["aten::mm"], 100);
  EXPECT_FALSE(std::filesystem::exists(folder("traced") + "/trace.json.unfinished.json"));

  StageConfig plain = config;
  plain.trace.reset();
  LoadedModel other = test::tiny_model(1);
  run_stage(plain, other, test::tiny_tokenizer_path(), folder("untraced"));
  EXPECT_FALSE(std::filesystem::exists(folder("untraced") + "/trace.json"));
  EXPECT_EQ(read_file(folder("traced") + "/checkpoint/model.safetensors"),
            read_file(folder("untraced") + "/checkpoint/model.safetensors"));
}

TEST(StepTrace, OfAStageThatContinuesHoldsTheStepsItStillTakes) {
  StageConfig config = traced_stage("traced-later");
  config.checkpoint_every = 1;
  config.trace->first_step = 1;
  config.trace->steps = 3;
  LoadedModel model = test::tiny_model(1), resumed = test::tiny_model(1);
  const std::string stopped = test::error_of([&] {
    run_stage(config, model, test::tiny_tokenizer_path(), folder(config.name), [](int64_t step) {
      if (step == 1) fail("stopped");
    });
  });
  EXPECT_EQ(stopped, "stopped");
  EXPECT_FALSE(std::filesystem::exists(folder(config.name) + "/trace.json"));
  run_stage(config, resumed, test::tiny_tokenizer_path(), folder(config.name));
  EXPECT_EQ(events_of(folder(config.name) + "/trace.json")["reduce"], 2);
}

TEST(StepTrace, NamesAFileThatCannotBeWritten) {
  StepTrace trace(StepTraceConfig{.first_step = 1, .steps = 1}, folder("no-such-folder") + "/trace.json");
  trace.before_step(1);
  const std::string error = test::error_of([&] { trace.after_step(1); });
  EXPECT_NE(error.find("no-such-folder/trace.json: the trace cannot be written"), std::string::npos) << error;
}

}  // namespace
}  // namespace pocketvlm
