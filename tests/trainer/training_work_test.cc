#include "trainer/training_work.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "tiny_stage.h"
#include "trainer/bench_shapes.h"
#include "trainer/stage_plan.h"

namespace pocketvlm {
namespace {

TEST(TrainingWork, CountsByHandWhatALanguageModelCosts) {
  ModelConfig config = test::tiny_model_config();
  const LanguageConfig& language = config.language;
  PackShape shape;
  shape.add({10, 20}, 7, {});
  EXPECT_EQ(shape.tokens, 30);
  EXPECT_EQ(shape.squared_segments, 500);
  // q, o: 32 x 32; k, v: 32 x 16; three MLP matrices 32 x 64; two layers; the output layer for targets alone
  const double weights = 2.0 * 30 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 2.0 * 7 * 32 * static_cast<double>(language.vocab);
  const double scores = 2.0 * 2 * 32 * 500;  // half of 4 x width x length^2
  LearningComponents learning;
  EXPECT_DOUBLE_EQ(training_operations(config, learning, shape), weights + scores);
  learning.language = true;
  EXPECT_DOUBLE_EQ(training_operations(config, learning, shape), 3 * (weights + scores));
  learning.language = false;
  learning.projector = true;  // gradients pass through the frozen decoder
  EXPECT_DOUBLE_EQ(training_operations(config, learning, shape), 2 * weights + 3 * scores);
}

TEST(TrainingWork, PassesGradientsThroughFrozenWeightsThatCarryUpdates) {
  const ModelConfig config = test::tiny_model_config();
  PackShape shape;
  shape.add({10, 20}, 7, {{4, 4}});
  LearningComponents frozen, updated = LearningComponents::of({}, {"language.layers.*.self_attn.q_proj"});
  EXPECT_TRUE(updated.language_updates);
  EXPECT_FALSE(updated.language || updated.projector_updates || updated.vision_encoder_updates);
  frozen.projector = true;  // passes through the frozen decoder all the same
  LearningComponents both = updated;
  both.projector = true;
  EXPECT_DOUBLE_EQ(training_operations(config, both, shape), training_operations(config, frozen, shape));
  EXPECT_GT(training_operations(config, updated, shape), training_operations(config, {}, shape));
  EXPECT_LT(training_operations(config, updated, shape), training_operations(config, LearningComponents::of({"language.*"}), shape));
  // Updates of the encoder need gradients through everything behind it.
  const auto vision = LearningComponents::of({}, {"vision_encoder.*"});
  EXPECT_GT(training_operations(config, vision, shape), training_operations(config, updated, shape));
}

TEST(TrainingWork, KnowsWhatPatternsTrain) {
  const auto learning = LearningComponents::of({"projector.*", "language.layers.0.*"});
  EXPECT_FALSE(learning.vision_encoder);
  EXPECT_TRUE(learning.projector);
  EXPECT_TRUE(learning.language);
  const auto all = LearningComponents::of({"*"});
  EXPECT_TRUE(all.vision_encoder && all.projector && all.language);
}

TEST(BenchShapes, DrawsTheLengthsThatPythonDraws) {
  // [int(round(math.exp(random.Random(seed).uniform(math.log(8), math.log(512))))) ...] of Python 3
  EXPECT_EQ(bench_lengths(8, 3, 8, 512), (std::vector<int64_t>{22, 77, 37, 99, 108, 11, 8, 260}));
  EXPECT_EQ(bench_lengths(8, 0, 8, 512), (std::vector<int64_t>{268, 187, 46, 23, 67, 43, 208, 28}));
}

TEST(BenchShapes, NamesTheSizeThatIsMissing) {
  const std::string path = test::test_folder() + "/shapes.json";
  write_file_atomic(path, R"({"vision": {"hidden_size": 8}, "language": {}, "queries": 4, "resampler_heads": 1})");
  EXPECT_NE(test::error_of([&] { BenchShapes::read(path); }).find("vision.patch_size: expected a positive integer"),
            std::string::npos);
}

TEST(StagePlan, DividesWhatTheShardingDivides) {
  StageConfig config = test::tiny_stage("plan");
  const ModelConfig model = test::tiny_model_config();
  const auto parameters = static_cast<double>(count_parameters(model).total());
  const RankPlan alone = plan_stage(config, model, {}, 1);
  EXPECT_DOUBLE_EQ(alone.weights_bytes, 4 * parameters);
  EXPECT_DOUBLE_EQ(alone.moments_bytes, 8 * parameters);
  EXPECT_EQ(alone.traffic_bytes, 0);
  config.distributed.sharding = "optimizer";
  const RankPlan optimizer = plan_stage(config, model, {}, 8);
  EXPECT_DOUBLE_EQ(optimizer.weights_bytes, 4 * parameters);
  EXPECT_DOUBLE_EQ(optimizer.moments_bytes, parameters);
  EXPECT_DOUBLE_EQ(optimizer.traffic_bytes, 7.0 / 8 * 8 * parameters);
  config.distributed.sharding = "full";
  const RankPlan full = plan_stage(config, model, {}, 8);
  EXPECT_LT(full.weights_bytes, 0.7 * optimizer.weights_bytes);  // embeddings stay whole
  EXPECT_LT(full.activations_bytes, alone.activations_bytes);
  EXPECT_DOUBLE_EQ(full.operations, alone.operations);
  EXPECT_DOUBLE_EQ(full.samples_per_step, 8 * alone.samples_per_step);
  config.distributed.overlap = false;  // one block is whole at a time instead of two
  EXPECT_DOUBLE_EQ(2 * plan_stage(config, model, {}, 8).gathered_bytes, full.gathered_bytes);
}

TEST(StagePlan, CountsTheMemoryOfHosts) {
  StageConfig config = test::tiny_stage("plan");
  const ModelConfig model = test::tiny_model_config();
  const auto parameters = static_cast<double>(count_parameters(model).total());
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).host_bytes, 4 * parameters) << "no states in between";
  config.checkpoint_every = 100;
  // Weights and two moments, of which each rank writes its eighth: of divided moments, too.
  for (const char* sharding : {"replicated", "optimizer", "full"}) {
    config.distributed.sharding = sharding;
    EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).host_bytes, 4 * parameters + 12 * parameters / 8) << sharding;
  }
  config.ema_decay = 0.99;
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).host_bytes, 4 * parameters + 16 * parameters / 8);
  config.checkpoint_in_background = false;
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).host_bytes, 4 * parameters);
  // Divided on the way from a checkpoint, the blocks are whole on rank 0 alone, when it writes the finished model.
  config.init_from = "somewhere";
  const ModelConfig large = load_model_config(SOURCE_ROOT "/configs/models/minicpmv-2.5.json");
  const RankPlan divided = plan_stage(config, large, {}, 512);
  const double whole = 4 * static_cast<double>(count_parameters(large).total());
  EXPECT_DOUBLE_EQ(divided.first_host_bytes, whole);
  EXPECT_LT(divided.host_bytes, whole / 4);
  EXPECT_GT(divided.host_bytes, 2 * 4.0 * 128256 * 4096) << "embeddings and output layer are not divided";
  EXPECT_EQ(divided.to_json()["host_bytes"], divided.host_bytes);
  EXPECT_EQ(divided.to_json()["first_host_bytes"], divided.first_host_bytes);
  EXPECT_NE(plan_text(config, large, {}, {divided}).find("rank 0's"), std::string::npos);
  config.distributed.sharding = "optimizer";
  EXPECT_DOUBLE_EQ(plan_stage(config, large, {}, 512).host_bytes, whole);
}

TEST(StagePlan, CountsOneMomentUnderMuonAndTheAverages) {
  StageConfig config = test::tiny_stage("plan");
  const ModelConfig model = test::tiny_model_config();
  const double adamw = plan_stage(config, model, {}, 1).moments_bytes, memory = plan_stage(config, model, {}, 1).memory_bytes();
  config.optimizer.orthogonalized = {"language.layers.*", "vision_encoder.blocks.*.mlp.*"};
  // Of each language layer q, o 32 x 32, k, v 32 x 16 and three MLP matrices 32 x 64; of each encoder block two 32 x 64; two layers each.
  const double matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 2 * 2 * 32 * 64;
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 1).moments_bytes, adamw - 4 * matrices);
  config.trainable = {"projector.*", "vision_encoder.*"};  // frozen matrices have no moments
  const double learned = plan_stage(config, model, {}, 1).gradients_bytes / 4;
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 1).moments_bytes, 8 * learned - 4 * (2 * 2 * 32 * 64));
  config = test::tiny_stage("plan");
  config.ema_decay = 0.99;
  const auto parameters = static_cast<double>(count_parameters(model).total());
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 1).averages_bytes, 4 * parameters);
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 1).memory_bytes(), memory + 4 * parameters);
  config.distributed.sharding = "full";
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).averages_bytes, parameters / 2);
  EXPECT_DOUBLE_EQ(plan_stage(config, model, {}, 8).to_json()["averages_bytes"].get<double>(), parameters / 2);
}

/// The figures of MobileVLM's recipe; the step itself is measured in docs/benchmarks.md.
TEST(StagePlan, CountsTheUpdatesOfLoraAndSaysWhatRecomputingSaves) {
  StageConfig config = test::tiny_stage("plan");
  config.trainable = {"projector.*"};
  config.lora = LoraConfig{128, 256, 0.05, {"language.layers.*_proj"}};
  config.compute_dtype = "bf16";
  config.data.batch_tokens = 2048;
  const ModelConfig model = load_model_config(SOURCE_ROOT "/configs/models/mobilevlm-1.7b.json");
  const ParameterCounts counts = count_parameters(model);
  const double learned = static_cast<double>(counts.projector) + 121110528;
  const RankPlan kept = plan_stage(config, model, {}, 1);
  EXPECT_DOUBLE_EQ(kept.weights_bytes, 4 * (static_cast<double>(counts.total()) + 121110528));
  EXPECT_DOUBLE_EQ(kept.gradients_bytes, 4 * learned);
  EXPECT_DOUBLE_EQ(kept.moments_bytes, 8 * learned);
  EXPECT_NE(plan_text(config, model, {}, {kept}).find("recompute_blocks = true would keep "), std::string::npos);
  config.recompute_blocks = true;
  const RankPlan recomputed = plan_stage(config, model, {}, 1);
  EXPECT_LT(recomputed.activations_bytes, 0.2 * kept.activations_bytes);
  EXPECT_EQ(plan_text(config, model, {}, {recomputed}).find("recompute_blocks"), std::string::npos);
  config.recompute_blocks = false;
  config.lora->dropout = 0;
  EXPECT_LT(plan_stage(config, model, {}, 1).activations_bytes, kept.activations_bytes);
}

}  // namespace
}  // namespace pocketvlm
