#include "model/row_padding.h"
#include "model/token_log_probs.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

/// Samples that differ in everything: no picture, slices of different grids, several pictures, one token.
std::vector<EncodedSample> mixed_samples(const ModelConfig& config) {
  Random random({11});
  const bool fixed = config.vision.positions == "fixed";
  const auto grids = [&](std::vector<std::array<int, 2>> wanted) {
    if (fixed) {
      for (auto& grid : wanted) grid = {6, 6};
    }
    return wanted;
  };
  std::vector<EncodedSample> samples;
  samples.push_back(as_sample(random_chat(config, random, 17, grids({{4, 6}, {3, 5}, {3, 5}})), 1.0F));
  samples.push_back(as_sample(random_chat(config, random, 9, {}), 0.5F));
  samples.push_back(as_sample(random_chat(config, random, 9, grids({{7, 2}})), 2.0F));
  samples.push_back(as_sample(random_chat(config, random, 33, grids({{6, 6}, {2, 8}})), 1.25F));
  samples.push_back(as_sample(random_chat(config, random, 4, {}), 1.0F));
  return samples;
}

using Gradients = std::map<std::string, torch::Tensor>;

Gradients gradients_of(VisionLanguageModel& model) {
  Gradients gradients;
  for (const auto& item : model->named_parameters()) {
    if (item.value().grad().defined()) gradients[item.key()] = item.value().grad().clone();
  }
  model->zero_grad();
  return gradients;
}

void expect_packed_equals_separate(const ModelConfig& config) {
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const std::vector<EncodedSample> samples = mixed_samples(config);

  const torch::Tensor packed_loss = model->loss_sum(to_batch(pack(samples)));
  packed_loss.backward();
  const Gradients packed = gradients_of(model);

  double separate_loss = 0.0;
  for (const EncodedSample& sample : samples) {
    const torch::Tensor loss = model->loss_sum(to_batch(pack({sample})));
    separate_loss += loss.item<double>();
    loss.backward();
  }
  const Gradients separate = gradients_of(model);

  EXPECT_NEAR(packed_loss.item<double>() / separate_loss, 1.0, 1e-5);
  ASSERT_EQ(packed.size(), model->named_parameters().size());
  ASSERT_EQ(separate.size(), packed.size());
  for (const auto& [name, gradient] : separate) {
    if (name.ends_with("k_proj.bias") && !name.starts_with("language.")) continue;  // mathematically zero
    EXPECT_LT(relative_difference(packed.at(name), gradient), 1e-5) << name;
  }
}

TEST(Packing, GivesTheLossAndEveryGradientOfSamplesOneAtATimeWithSlicesOfDifferentGrids) {
  expect_packed_equals_separate(tiny_config());
}

TEST(Packing, HoldsForInterpolatedPositionsAndPositionedQueries) {
  ModelConfig config = tiny_config();
  config.vision.positions = "interpolated";
  config.projector.positions = "key_and_query";
  config.projector.num_queries = 4;
  config.prompt.num_queries = 4;
  config.language.scale_embeddings = 3.0;
  config.language.scale_residual = 0.7;
  config.language.scale_logits = 2.0;
  expect_packed_equals_separate(config);
}

TEST(Packing, HoldsForClassTokensAndConvolutionalProjectors) {
  expect_packed_equals_separate(tiny_clip_config());
  ModelConfig config = tiny_clip_config();
  config.projector.kind = "ldp";
  expect_packed_equals_separate(config);
}

TEST(Packing, HoldsForSegmentsLongerThanTheKernelTakes) {
  ModelConfig config = tiny_config();
  config.language.max_positions = 2048;
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  Random random({4});
  const std::vector<EncodedSample> samples = {as_sample(random_chat(config, random, 700, {}), 1.0F),
                                              as_sample(random_chat(config, random, 30, {}), 1.0F)};
  const double packed = model->loss_sum(to_batch(pack(samples))).item<double>();
  const double separate = model->loss_sum(to_batch(pack({samples[0]}))).item<double>() +
                          model->loss_sum(to_batch(pack({samples[1]}))).item<double>();
  EXPECT_NEAR(packed / separate, 1.0, 1e-5);
}

TEST(Packing, SegmentsMayShareOneEncodedPicture) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  Random random({12});
  const EncodedSample first = as_sample(random_chat(config, random, 10, {{4, 4}}), 1.0F);
  PackedBatch twice = pack({first, first});
  PackedBatch shared = twice;
  shared.grids.resize(1);
  shared.patches.resize(first.chat.patches.size());
  for (int64_t i = 0; i < config.projector.num_queries; ++i) {
    shared.visual_rows[static_cast<std::size_t>(config.projector.num_queries + i)] = i;
  }
  EXPECT_NEAR(model->loss_sum(to_batch(shared)).item<double>() / model->loss_sum(to_batch(twice)).item<double>(),
              1.0,
              1e-6);
}

TEST(Model, StartsFromTheSeedAloneWhateverElseTheProcessDrew) {
  const ModelConfig config = tiny_config();
  torch::manual_seed(1);
  VisionLanguageModel first(config, 9);
  torch::randn({100});
  VisionLanguageModel second(config, 9), other(config, 10);
  for (const auto& item : first->named_parameters()) {
    EXPECT_TRUE(torch::equal(item.value(), second->named_parameters()[item.key()])) << item.key();
    if (item.value().dim() > 1) {
      EXPECT_FALSE(torch::equal(item.value(), other->named_parameters()[item.key()])) << item.key();
      EXPECT_GT(item.value().std().item<double>(), 0.0) << item.key();
    }
  }
}

TEST(Model, FrozenPartsGetNoGradientAndAFrozenEncoderNoGraph) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const std::vector<EncodedSample> samples = mixed_samples(config);
  const Batch batch = to_batch(pack(samples));
  const std::vector<std::string> trainable = set_trainable(*model, {"projector.*"});
  EXPECT_EQ(trainable.size(), model->projector->parameters().size());
  model->loss_sum(batch).backward();
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().grad().defined(), item.key().starts_with("projector.")) << item.key();
  }
  set_trainable(*model, {"language.*"});
  EXPECT_FALSE(model->encode_images(batch.patches, batch.grids).requires_grad());
  // Stage 2: the encoder alone learns, through a frozen projector and decoder.
  set_trainable(*model, {"vision_encoder.*"});
  model->zero_grad();
  model->loss_sum(batch).backward();
  for (const auto& item : model->vision_encoder->named_parameters()) {
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
  }
}

TEST(Model, APatternThatMatchesNothingIsAnErrorWithASuggestion) {
  VisionLanguageModel model(tiny_config(), 3);
  const std::string error = error_of([&] { set_trainable(*model, {"projecter.*"}); });
  EXPECT_NE(error.find("projecter.*"), std::string::npos);
  EXPECT_NE(error.find("did you mean \"projector.*\""), std::string::npos) << error;
  EXPECT_EQ(set_trainable(*model, {"*"}).size(), model->named_parameters().size());
  EXPECT_EQ(set_trainable(*model, {"language.layers.*.self_attn.q_proj.weight"}).size(), 2);
}

TEST(Model, Bfloat16ComputeStaysCloseToFloat32) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const Batch batch = to_batch(pack(mixed_samples(config)));
  const torch::Tensor exact = model->loss_sum(batch);
  exact.backward();
  const Gradients expected = gradients_of(model);
  torch::Tensor rounded;
  {
    const ComputeDtype compute(torch::kBFloat16);
    EXPECT_EQ(model->hidden_states(batch).scalar_type(), torch::kBFloat16);
    rounded = model->loss_sum(batch);
  }
  EXPECT_EQ(rounded.scalar_type(), torch::kFloat32);
  EXPECT_NEAR(rounded.item<double>() / exact.item<double>(), 1.0, 0.02);
  rounded.backward();  // outside the guard: what a product runs in was decided forward
  for (const auto& [name, gradient] : gradients_of(model)) {
    if (name.ends_with("k_proj.bias") && !name.starts_with("language.")) continue;
    EXPECT_EQ(gradient.scalar_type(), torch::kFloat32);
    const double cosine = (gradient * expected.at(name)).sum().item<double>() /
                          (gradient.norm().item<double>() * expected.at(name).norm().item<double>());
    EXPECT_GT(cosine, 0.98) << name;
  }
}

TEST(Model, RowsThatFillUpProductsAreSeenByNobody) {
  const torch::Tensor x = torch::ones({70, 3});
  EXPECT_EQ(missing_rows(x, 70), 0);
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const Batch batch = to_batch(pack(mixed_samples(config)));
  ASSERT_NE(batch.input_ids.size(0) % 64, 0);
  const ComputeDtype compute(torch::kBFloat16);
  EXPECT_EQ(missing_rows(x, 70), 58);
  EXPECT_EQ(missing_rows(x, 128), 0);
  EXPECT_TRUE(torch::equal(with_zero_rows(x, 2), torch::cat({x, torch::zeros({2, 3})})));
  const torch::Tensor filled = model->hidden_states(batch);  // with a graph; without one the decoder fills nothing up
  const torch::Tensor rows = target_rows(batch);
  const torch::Tensor visual = model->encode_images(batch.patches, batch.grids);
  const torch::Tensor chosen =
      model->language->forward(model->embed(batch, visual), batch.position_ids, batch.segment_lengths, rows);
  const torch::NoGradGuard no_grad;
  const torch::Tensor plain = model->hidden_states(batch);
  ASSERT_EQ(filled.sizes(), plain.sizes());
  EXPECT_LT(relative_difference(filled, plain), 1e-2);
  ASSERT_EQ(chosen.size(0), rows.size(0));
  EXPECT_LT(relative_difference(chosen, plain.index_select(0, rows)), 1e-2);
}

TEST(Model, LossSumIsTheWeightedSumOfTargetLogProbs) {
  const ModelConfig config = tiny_config();
  VisionLanguageModel model(config, 3);
  scatter_weights(*model, 5);
  const Batch batch = to_batch(pack(mixed_samples(config)));
  const torch::Tensor hidden = model->hidden_states(batch);
  const torch::Tensor rows = (batch.labels >= 0).nonzero().squeeze(1);
  const torch::Tensor all = torch::log_softmax(model->logits(hidden), 1);
  const torch::Tensor expected =
      all.index_select(0, rows).gather(1, batch.labels.index_select(0, rows).unsqueeze(1)).squeeze(1);
  EXPECT_LT(relative_difference(model->target_log_probs(batch, hidden.index_select(0, target_rows(batch))), expected), 1e-5);
  const double loss = -(expected * batch.loss_weights.index_select(0, rows)).sum().item<double>();
  EXPECT_NEAR(model->loss_sum(batch).item<double>() / loss, 1.0, 1e-5);
}

TEST(Model, WrongGridsAreErrorsThatNameTheNumbers) {
  VisionLanguageModel model(tiny_config(), 3);
  const int64_t values = 3 * 4 * 4;
  EXPECT_NE(error_of([&] { model->encode_images(torch::zeros({7, values}), {{2, 3}}); }).find("7 rows of patches"),
            std::string::npos);
  VisionLanguageModel clip(tiny_clip_config(), 3);
  EXPECT_NE(error_of([&] { clip->encode_images(torch::zeros({30, values}), {{6, 5}}); }).find("6 x 5"),
            std::string::npos);
  ProjectorConfig pooled;
  pooled.kind = "ldpv2";
  pooled.num_queries = 6;
  const auto projector = make_projector(pooled, 8, 16);
  EXPECT_EQ(projector->forward(torch::zeros({48, 8}), {{4, 6}, {6, 4}}).size(0), 12);
  EXPECT_NE(error_of([&] { projector->forward(torch::zeros({24, 8}), {{3, 8}}); }).find("3 x 8"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
