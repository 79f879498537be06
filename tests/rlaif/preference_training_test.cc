#include "rlaif/preference_training.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "tiny_round.h"

namespace pocketvlm {
namespace {

PreferenceConfig tiny_preference() {
  PreferenceConfig config = test::tiny_round().preference;
  config.batch_pairs = 3;
  return config;
}

std::string fresh(const std::string& name) {
  const std::string folder = test::test_folder() + "/" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

PreferenceResult train(const PreferenceConfig& config,
                       LoadedModel& model,
                       int pairs,
                       const std::string& folder) {
  return train_preferences(
      config, model, test::tiny_pairs(pairs), test::tiny_pictures(), 1, "cpu", folder);
}

EncodedSample alone(const LoadedModel& model,
                    const PreferencePair& pair,
                    bool chosen,
                    const Image& image) {
  EncodedPair encoded = encode_pair(pair, image, *model.encoder);
  return chosen ? std::move(encoded.chosen) : std::move(encoded.rejected);
}

std::map<std::string, torch::Tensor> take_gradients(LoadedModel& model) {
  std::map<std::string, torch::Tensor> gradients;
  for (auto& item : model.model->named_parameters()) {
    gradients[item.key()] =
        item.value().grad().defined() ? item.value().grad().clone() : torch::Tensor();
    item.value().mutable_grad().reset();
  }
  return gradients;
}

// Values and gradients: the visual tokens that two answers share must not be counted once only, nor
// twice.
TEST(SharedPicture, GivesWhatSeparateSequencesGive) {
  LoadedModel model = test::tiny_model(2);
  const std::vector<PreferencePair> pairs = test::tiny_pairs(5);
  const PictureReader picture = test::tiny_pictures();
  std::vector<EncodedPair> encoded;
  for (const PreferencePair& pair : pairs)
    encoded.push_back(encode_pair(pair, picture(pair.index), *model.encoder));
  const std::vector<PackedBatch> packs = pack_pairs(std::move(encoded), 200);
  EXPECT_GT(packs.size(), 1u);
  // Unequal weights, so that an exchange of answers cannot go unseen.
  std::vector<double> shared;
  for (const PackedBatch& pack : packs) {
    EXPECT_LE(pack.num_tokens(), 200);
    EXPECT_EQ(pack.grids.size(), pack.segment_lengths.size() / 2);
    const torch::Tensor log_probs = segment_log_probs(model.model, pack, torch::kCPU);
    torch::Tensor sum = torch::zeros({});
    for (int64_t i = 0; i < log_probs.size(0); ++i) {
      sum = sum + log_probs[i] * static_cast<double>(shared.size() + 1);
      shared.push_back(log_probs[i].item<double>());
    }
    sum.backward();
  }
  const auto shared_gradients = take_gradients(model);
  std::size_t next = 0;
  for (const PreferencePair& pair : pairs) {
    for (const bool chosen : {true, false}) {
      PackedBatch pack;
      append_sample(alone(model, pair, chosen, picture(pair.index)), pack);
      const torch::Tensor log_prob = segment_log_probs(model.model, pack, torch::kCPU)[0];
      ASSERT_LT(next, shared.size());
      EXPECT_NEAR(shared[next], log_prob.item<double>(), 1e-5 * std::abs(log_prob.item<double>()));
      ++next;
      (log_prob * static_cast<double>(next)).backward();
    }
  }
  EXPECT_EQ(next, shared.size());
  const auto gradients = take_gradients(model);
  double largest = 0;
  for (const auto& [name, gradient] : gradients) {
    if (gradient.defined()) largest = std::max(largest, gradient.abs().max().item<double>());
  }
  for (const auto& [name, gradient] : gradients) {
    const torch::Tensor& other = shared_gradients.at(name);
    ASSERT_EQ(gradient.defined(), other.defined()) << name;
    if (!gradient.defined()) continue;
    // Biases of keys have no gradient but rounding: softmax does not see them.
    const double scale = std::max(1e-3 * largest, gradient.abs().max().item<double>());
    EXPECT_LT((gradient - other).abs().max().item<double>(), 1e-5 * scale) << name;
  }
}

TEST(SharedPicture, MustHaveTheSameVisualTokens) {
  LoadedModel model = test::tiny_model(2);
  PackedBatch pack;
  const Image small(56, 56);
  const Image wide(168, 56);  // sliced: more visual tokens
  const PreferencePair pair = test::tiny_pairs(1)[0];
  EncodedPair mixed{alone(model, pair, true, small), alone(model, pair, false, wide)};
  ASSERT_NE(mixed.chosen.chat.visual_positions.size(), mixed.rejected.chat.visual_positions.size());
  std::vector<EncodedPair> pairs;
  pairs.push_back(std::move(mixed));
  EXPECT_THROW(pack_pairs(std::move(pairs), 1000), Error);
}

TEST(PreferenceTraining, BeginsAtLogTwoWithTheCachedReference) {
  LoadedModel model = test::tiny_model(2);
  const std::string folder = fresh("dpo-begin");
  const PreferenceResult result = train(tiny_preference(), model, 7, folder);
  EXPECT_EQ(result.pairs, 7);
  EXPECT_EQ(result.steps, 6);  // two epochs of 3 + 3 + 1 pairs
  EXPECT_NEAR(result.first.at("loss"), std::log(2.0), 1e-5);
  EXPECT_NEAR(result.first.at("rewards/margins"), 0, 1e-5);
  EXPECT_LT(result.last.at("loss"), result.first.at("loss"));
  EXPECT_EQ(test::read_lines(folder + "/metrics.jsonl").size(), 6u);

  // Cached = live: the reference is the model before training.
  LoadedModel reference = test::tiny_model(2);
  const std::vector<Json> rows = test::read_lines(folder + "/reference.jsonl");
  const std::vector<PreferencePair> pairs = test::tiny_pairs(7);
  const PictureReader picture = test::tiny_pictures();
  ASSERT_EQ(rows.size(), pairs.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    PackedBatch pack;
    append_sample(alone(reference, pairs[i], true, picture(pairs[i].index)), pack);
    append_sample(alone(reference, pairs[i], false, picture(pairs[i].index)), pack);
    const torch::Tensor live = segment_log_probs(reference.model, pack, torch::kCPU);
    EXPECT_NEAR(rows[i].at("chosen_logps").get<double>(), live[0].item<double>(), 1e-4);
    EXPECT_NEAR(rows[i].at("rejected_logps").get<double>(), live[1].item<double>(), 1e-4);
  }
  // And the comparison sees another model.
  LoadedModel other = test::tiny_model(4);
  PackedBatch pack;
  append_sample(alone(other, pairs[0], true, picture(0)), pack);
  EXPECT_GT(std::abs(rows[0].at("chosen_logps").get<double>() -
                     segment_log_probs(other.model, pack, torch::kCPU)[0].item<double>()),
            1e-2);
}

TEST(PreferenceTraining, LearnsWhatIsPreferred) {
  LoadedModel model = test::tiny_model(2);
  PreferenceConfig config = tiny_preference();
  config.epochs = 10;
  const PreferenceResult result = train(config, model, 6, fresh("dpo-learns"));
  EXPECT_EQ(result.last.at("rewards/accuracies"), 1.0);
  EXPECT_GT(result.last.at("rewards/margins"), 0.3);
}

TEST(PreferenceTraining, LeavesFrozenTensorsBitIdentical) {
  LoadedModel model = test::tiny_model(2);
  const auto before = test::copy_weights(model);
  PreferenceConfig config = tiny_preference();
  config.trainable = {"projector.*"};
  const PreferenceResult result = train(config, model, 4, fresh("dpo-frozen"));
  for (const auto& [name, weight] : test::copy_weights(model)) {
    EXPECT_EQ(test::same_bits(weight, before.at(name)), !name.starts_with("projector.")) << name;
  }
  ASSERT_EQ(result.components.size(), 3u);
  EXPECT_EQ(result.components[0].trainable_tensors, 0);
  EXPECT_EQ(result.components[1].component, "projector");
  EXPECT_EQ(result.components[1].trainable_tensors, result.components[1].tensors);
}

TEST(PreferenceTraining, LeavesOutPairsThatDoNotFit) {
  LoadedModel model = test::tiny_model(2);
  std::vector<PreferencePair> pairs = test::tiny_pairs(3);
  for (int i = 0; i < 200; ++i) pairs[1].rejected += " There is a cat.";
  const PreferenceResult result = train_preferences(
      tiny_preference(), model, pairs, test::tiny_pictures(), 1, "cpu", fresh("dpo-long"));
  EXPECT_EQ(result.pairs, 2);
  ASSERT_EQ(result.dropped.size(), 1u);
  EXPECT_EQ(result.dropped.at("longer than language.max_positions"), 1);
}

TEST(PreferenceTraining, WithoutPairsLeavesThePolicyAsItIs) {
  LoadedModel model = test::tiny_model(2);
  const auto before = test::copy_weights(model);
  EXPECT_EQ(train(tiny_preference(), model, 0, fresh("dpo-none")).steps, 0);
  for (const auto& [name, weight] : test::copy_weights(model))
    EXPECT_TRUE(test::same_bits(weight, before.at(name)));
}

TEST(PreferenceTraining, DividesAStepIntoPacksWithoutChangingIt) {
  PreferenceConfig config = tiny_preference();
  LoadedModel one = test::tiny_model(2);
  const PreferenceResult whole = train(config, one, 6, fresh("dpo-one-pack"));
  config.pack_tokens = 1;  // every pair alone
  LoadedModel many = test::tiny_model(2);
  const PreferenceResult divided = train(config, many, 6, fresh("dpo-many-packs"));
  for (const auto& [name, value] : whole.last) {
    if (name == "seconds" || name == "tokens_per_s") continue;
    EXPECT_NEAR(divided.last.at(name), value, 1e-3 * std::max(1.0, std::abs(value))) << name;
  }
}

TEST(Reference, IsMadeAgainForOtherWeightsOnly) {
  const std::string folder = fresh("dpo-reference");
  LoadedModel model = test::tiny_model(2);
  train(tiny_preference(), model, 5, folder);
  const std::string rows = read_file(folder + "/reference.jsonl");
  std::filesystem::remove_all(folder + "/state");
  LoadedModel same = test::tiny_model(2);
  train(tiny_preference(), same, 5, folder);
  EXPECT_EQ(read_file(folder + "/reference.jsonl"), rows);
  std::filesystem::remove_all(folder + "/state");
  LoadedModel other = test::tiny_model(4);
  train(tiny_preference(), other, 5, folder);
  EXPECT_NE(read_file(folder + "/reference.jsonl"), rows);
}

}  // namespace
}  // namespace pocketvlm
