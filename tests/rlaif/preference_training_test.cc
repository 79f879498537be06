#include "rlaif/preference_training.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "model/adapter.h"
#include "rlaif/token_weights.h"
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
  // The pixels stand with the chosen answer.
  PreferencePair own = pair;
  if (!chosen) own.chosen = pair.rejected;
  return encode_pair(own, image, *model.encoder).chosen;
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

// Summed log-prob of one answer by the plainest way: a batch of one sequence.
torch::Tensor plain_log_prob(LoadedModel& model, EncodedSample sample) {
  PackedBatch packed;
  append_sample(sample, packed);
  const Batch batch = to_batch(packed);
  return model.model->target_log_probs(batch, model.model->hidden_states(batch).index_select(0, target_rows(batch))).sum();
}

class SharedPicture : public testing::TestWithParam<bool> {};

// Values and gradients: the visual tokens that two answers share must not be counted once only, nor
// twice.
TEST_P(SharedPicture, GivesWhatSeparateSequencesGive) {
  LoadedModel model = test::tiny_model(2);
  const std::vector<PreferencePair> pairs = test::tiny_pairs(5);
  const PictureReader picture = test::tiny_pictures();
  std::vector<EncodedPair> encoded;
  for (const PreferencePair& pair : pairs)
    encoded.push_back(encode_pair(pair, picture(pair.index), *model.encoder));
  const std::int64_t prompt_tokens = std::find(encoded[0].chosen.chat.is_target.begin(),
                                               encoded[0].chosen.chat.is_target.end(),
                                               1) -
                                     encoded[0].chosen.chat.is_target.begin();
  const std::int64_t tokens = encoded[0].chosen.num_tokens() + encoded[0].rejected.num_tokens();
  PreferenceConfig config = tiny_preference();
  config.pack_tokens = 200;
  config.share_prompt = GetParam();
  const std::vector<PairPack> packs = pack_pairs(std::move(encoded), config);
  EXPECT_GT(packs.size(), 1u);
  EXPECT_EQ(packs[0].batch().segment_lengths[0] + packs[0].batch().segment_lengths[1] +
                (GetParam() ? packs[0].batch().segment_lengths[2] : 0),
            GetParam() ? tokens - prompt_tokens + 1 : tokens);
  // Unequal weights, so that an exchange of answers cannot go unseen.
  std::vector<double> shared;
  for (const PairPack& pack : packs) {
    EXPECT_LE(pack.batch().num_tokens(), 200);
    EXPECT_EQ(pack.batch().grids.size(), pack.pairs.size());
    const torch::Tensor log_probs =
        pack_log_probs(model.model, pack, config, torch::kCPU).sums.flatten();
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
      const torch::Tensor log_prob =
          plain_log_prob(model, alone(model, pair, chosen, picture(pair.index)));
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

// A picture is sliced once a pair.
TEST(EncodedPairs, HaveThePixelsOfTheirPictureOnce) {
  LoadedModel model = test::tiny_model(2);
  const PreferencePair pair = test::tiny_pairs(1)[0];
  const EncodedPair encoded = encode_pair(pair, test::tiny_pictures()(0), *model.encoder);
  EXPECT_FALSE(encoded.chosen.chat.patches.empty());
  EXPECT_TRUE(encoded.rejected.chat.patches.empty());
  EXPECT_EQ(encoded.rejected.chat.grids, encoded.chosen.chat.grids);
  EXPECT_EQ(encoded.rejected.chat.ids, alone(model, pair, false, test::tiny_pictures()(0)).chat.ids);
}

TEST_P(SharedPicture, MustHaveTheSameVisualTokens) {
  LoadedModel model = test::tiny_model(2);
  PreferenceConfig config = tiny_preference();
  config.share_prompt = GetParam();
  const Image small(56, 56);
  const Image wide(168, 56);  // sliced: more visual tokens
  const PreferencePair pair = test::tiny_pairs(1)[0];
  EncodedPair mixed{alone(model, pair, true, small), alone(model, pair, false, wide)};
  ASSERT_NE(mixed.chosen.chat.visual_positions.size(), mixed.rejected.chat.visual_positions.size());
  std::vector<EncodedPair> pairs;
  pairs.push_back(std::move(mixed));
  EXPECT_THROW(pack_pairs(std::move(pairs), config), Error);
}

INSTANTIATE_TEST_SUITE_P(Prompts, SharedPicture, testing::Bool());

// DDPO and LD-DPO: the weights stand on the right tokens, with and without shared prompts.
TEST(TokenWeightsOfPairs, WeighTheLogProbsOfTheirTokens) {
  LoadedModel model = test::tiny_model(2);
  PreferencePair pair = test::tiny_pairs(1)[0];
  pair.chosen = "There is a cat on the left. There is a tree.";
  pair.rejected = "There is a dog on the left.";
  const Image image = test::tiny_pictures()(0);
  const auto weighted = [&](const PreferenceConfig& config) {
    std::vector<EncodedPair> encoded;
    encoded.push_back(encode_pair(pair, image, *model.encoder));
    const PairPack pack = std::move(pack_pairs(std::move(encoded), config).front());
    return pack_log_probs(model.model, pack, config, torch::kCPU).sums[0];
  };
  const auto expected = [&](bool chosen, const PreferenceConfig& config) {
    const EncodedPair encoded = encode_pair(pair, image, *model.encoder);
    const auto ids = [](const EncodedSample& sample) {
      std::vector<std::int32_t> ids;
      for (std::size_t i = 0; i < sample.chat.ids.size(); ++i)
        if (sample.chat.is_target[i] != 0) ids.push_back(sample.chat.ids[i]);
      return ids;
    };
    const TokenWeights weights = token_weights(ids(encoded.chosen), ids(encoded.rejected), config);
    PackedBatch packed;
    append_sample(alone(model, pair, chosen, image), packed);
    const Batch batch = to_batch(packed);
    const torch::Tensor log_probs =
        model.model->target_log_probs(batch, model.model->hidden_states(batch).index_select(0, target_rows(batch)));
    const torch::Tensor weight = torch::tensor(chosen ? weights.chosen : weights.rejected);
    EXPECT_GT(weight.max().item<float>(), weight.min().item<float>());
    const torch::Tensor sum = (log_probs * weight).sum();
    return (config.mean_over_tokens ? sum / weight.sum() : sum).item<double>();
  };
  for (const bool share : {false, true}) {
    for (const bool mean : {false, true}) {
      PreferenceConfig config = tiny_preference();
      config.share_prompt = share;
      config.mean_over_tokens = mean;
      config.changed_token_weight = 5;
      config.length_tail_weight = 0.5;
      const torch::Tensor sums = weighted(config);
      EXPECT_NEAR(sums[0].item<double>(), expected(true, config), 1e-4);
      // The shorter answer has no tail, but replaced words.
      EXPECT_NEAR(sums[1].item<double>(), expected(false, config), 1e-4);
    }
  }
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
    const Image image = picture(pairs[i].index);
    for (const bool chosen : {true, false}) {
      EXPECT_NEAR(rows[i].at(chosen ? "chosen_logps" : "rejected_logps").get<double>(),
                  plain_log_prob(reference, alone(reference, pairs[i], chosen, image)).item<double>(),
                  1e-4);
    }
  }
  // And the comparison sees another model.
  LoadedModel other = test::tiny_model(4);
  EXPECT_GT(
      std::abs(rows[0].at("chosen_logps").get<double>() -
               plain_log_prob(other, alone(other, pairs[0], true, picture(0))).item<double>()),
      1e-2);
}

TEST(PreferenceTraining, WithSharedPromptsIsTheSameUpToRounding) {
  PreferenceConfig config = tiny_preference();
  EXPECT_TRUE(config.share_prompt);
  config.share_prompt = false;
  LoadedModel apart = test::tiny_model(2);
  const PreferenceResult plain = train(config, apart, 6, fresh("dpo-apart"));
  config.share_prompt = true;
  LoadedModel together = test::tiny_model(2);
  const PreferenceResult shared = train(config, together, 6, fresh("dpo-together"));
  for (const char* name : {"loss", "rewards/margins", "logps/chosen", "logps/rejected"})
    EXPECT_NEAR(shared.last.at(name), plain.last.at(name), 2e-3 * std::abs(plain.last.at(name))) << name;
}

// KTO looks at answers to other prompts; its KL term is none at the start, when policy = reference.
TEST(PreferenceTraining, LearnsByEveryLoss) {
  for (const std::string& loss : PreferenceConfig::pair_losses()) {
    SCOPED_TRACE(loss);
    LoadedModel model = test::tiny_model(2);
    PreferenceConfig config = tiny_preference();
    config.loss = loss;
    config.epochs = 4;
    if (loss == "simpo") config.beta = 2;
    if (loss == "robust" || loss == "cdpo") config.label_smoothing = 0.1;
    const std::string folder = fresh("dpo-" + loss);
    const PreferenceResult result = train(config, model, 6, folder);
    EXPECT_LT(result.last.at("loss"), result.first.at("loss"));
    EXPECT_GT(result.last.at("rewards/margins"), result.first.at("rewards/margins"));
    EXPECT_EQ(std::filesystem::exists(folder + "/reference-kl.jsonl"), loss == "kto");
    if (loss == "kto") {
      EXPECT_NEAR(result.first.at("kl"), 0, 1e-4);
      EXPECT_NEAR(result.first.at("loss"), 0.5, 1e-4);
    }
  }
}

TEST(PreferenceTraining, OfOnePairCannotBeKto) {
  LoadedModel model = test::tiny_model(2);
  PreferenceConfig config = tiny_preference();
  config.loss = "kto";
  const std::string error = test::error_of([&] { train(config, model, 1, fresh("dpo-kto-one")); });
  EXPECT_NE(error.find("at least two pairs"), std::string::npos) << error;
}

TEST(PreferenceTraining, KeepsCheckpointsToChooseFrom) {
  LoadedModel model = test::tiny_model(2);
  PreferenceConfig config = tiny_preference();
  config.keep_every = 2;
  const std::string folder = fresh("dpo-keep");
  PreferenceOptions options;
  options.tokenizer_path = test::tiny_tokenizer_path();
  train_preferences(
      config, model, test::tiny_pairs(7), test::tiny_pictures(), 1, "cpu", folder, {}, options);
  std::vector<std::string> kept;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/candidates"))
    kept.push_back(entry.path().filename());
  std::sort(kept.begin(), kept.end());
  EXPECT_EQ(kept, (std::vector<std::string>{"step-000002", "step-000004"}));  // 6 is the result
  const LoadedModel halfway = load_model(folder + "/candidates/step-000002");
  EXPECT_NE(weights_hash(*halfway.model, {"*"}), weights_hash(*model.model, {"*"}));
  EXPECT_NE(test::error_of([&] { train(config, model, 7, fresh("dpo-keep-none")); }).find("tokenizer"),
            std::string::npos);
}

TEST(PreferenceTraining, TakesAnotherReferenceWhenGiven) {
  LoadedModel model = test::tiny_model(2);
  LoadedModel first = test::tiny_model(4);
  PreferenceOptions options;
  options.reference = &first;
  const PreferenceResult result = train_preferences(tiny_preference(),
                                                    model,
                                                    test::tiny_pairs(4),
                                                    test::tiny_pictures(),
                                                    1,
                                                    "cpu",
                                                    fresh("dpo-first"),
                                                    {},
                                                    options);
  EXPECT_GT(std::abs(result.first.at("rewards/chosen")), 1e-3);
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

TEST(PreferenceTraining, BeginsExactlyAtItsReferenceInBfloat16) {
  for (const bool share : {false, true}) {
    LoadedModel model = test::tiny_model(2);
    PreferenceConfig config = tiny_preference();
    config.compute_dtype = "bf16";
    config.share_prompt = share;
    const PreferenceResult result = train(config, model, 3, fresh("dpo-bf16"));
    EXPECT_EQ(result.first.at("rewards/chosen"), 0.0);
    EXPECT_EQ(result.first.at("rewards/rejected"), 0.0);
  }
}

TEST(PreferenceTraining, WithLoraLearnsTheUpdatesAlone) {
  const std::string policy = fresh("dpo-lora-policy"), folder = fresh("dpo-lora");
  LoadedModel model = test::tiny_model(2);
  save_model(model.model, test::tiny_tokenizer_path(), policy);
  const auto before = test::copy_weights(model);
  PreferenceConfig config = tiny_preference();
  config.lora = LoraConfig{.rank = 2, .alpha = 4.0, .dropout = 0.0, .targets = {"language.layers.*.q_proj"}};
  config.epochs = 6;
  config.keep_every = 2;
  PreferenceOptions options;
  options.policy = policy;
  options.tokenizer_path = test::tiny_tokenizer_path();
  const PreferenceResult result = train_preferences(
      config, model, test::tiny_pairs(6), test::tiny_pictures(), 1, "cpu", folder, {}, options);
  EXPECT_NEAR(result.first.at("rewards/chosen"), 0, 1e-5) << "the reference is the model without updates";
  EXPECT_LT(result.last.at("loss"), result.first.at("loss"));
  const auto after = test::copy_weights(model);
  ASSERT_EQ(after.size(), before.size()) << "the updates are merged";
  for (const auto& [name, weight] : after) {
    const bool updated = name.starts_with("language.layers.") && name.ends_with("q_proj.weight");
    EXPECT_EQ(test::same_bits(weight, before.at(name)), !updated) << name;
  }

  merge_adapter(policy, folder + "/adapter", folder + "/merged");
  const LoadedModel merged = load_model(folder + "/merged"), early = load_model(folder + "/candidates/step-000002");
  for (const auto& item : merged.model->named_parameters())
    EXPECT_TRUE(torch::allclose(item.value(), after.at(item.key()), 1e-6, 1e-7)) << item.key();
  EXPECT_NE(weights_hash(*early.model, {"*"}), weights_hash(*merged.model, {"*"}));
  EXPECT_NE(weights_hash(*early.model, {"*"}), weights_hash(*load_model(policy).model, {"*"}));
}

TEST(PreferenceTraining, LeavesOutPairsThatDoNotFit) {
  LoadedModel model = test::tiny_model(2);
  std::vector<PreferencePair> pairs = test::tiny_pairs(3);
  for (int i = 0; i < 200; ++i) pairs[1].rejected += " There is a cat.";
  pairs.push_back(pairs[0]);
  pairs.back().rejected = pairs.back().chosen;
  const PreferenceResult result = train_preferences(
      tiny_preference(), model, pairs, test::tiny_pictures(), 1, "cpu", fresh("dpo-long"));
  EXPECT_EQ(result.pairs, 2);
  ASSERT_EQ(result.dropped.size(), 2u);
  EXPECT_EQ(result.dropped.at("chosen and rejected are equal"), 1);
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

// Live log-probs are the cached ones up to the packs that they are computed in.
TEST(PreferenceTraining, WithALiveReferenceIsTheSameUpToRounding) {
  for (const std::string& loss : {std::string("sigmoid"), std::string("kto")}) {
    PreferenceConfig config = tiny_preference();
    config.loss = loss;
    LoadedModel with_cached = test::tiny_model(2), with_live = test::tiny_model(2);
    const PreferenceResult cached = train(config, with_cached, 7, fresh("dpo-cached-" + loss));
    config.reference = "live";
    const std::string folder = fresh("dpo-live-" + loss);
    const PreferenceResult live = train(config, with_live, 7, folder);
    ASSERT_EQ(live.last.size(), cached.last.size());
    for (const auto& [name, value] : cached.last) {
      if (name == "seconds" || name == "tokens_per_s") continue;
      EXPECT_NEAR(live.last.at(name), value, 1e-3 * std::max(1.0, std::abs(value))) << loss << " " << name;
    }
    EXPECT_GT(std::abs(live.last.at("rewards/chosen")), 1e-3) << "the reference does not learn";
    for (const Json& row : test::read_lines(folder + "/reference.jsonl")) {
      EXPECT_FALSE(row.contains("chosen_logps"));
      EXPECT_GT(row.at("chosen_tokens").get<int>(), 0);
    }
  }
  // Token counts are those of the packs.
  const auto rows = [](const std::string& name) { return test::read_lines(test::test_folder() + "/" + name + "/reference.jsonl"); };
  const auto live = rows("dpo-live-sigmoid"), cached = rows("dpo-cached-sigmoid");
  ASSERT_EQ(live.size(), cached.size());
  for (std::size_t i = 0; i < live.size(); ++i) {
    EXPECT_EQ(live[i].at("chosen_tokens"), cached[i].at("chosen_tokens"));
    EXPECT_EQ(live[i].at("rejected_tokens"), cached[i].at("rejected_tokens"));
    EXPECT_NE(live[i].at("key"), cached[i].at("key"));
  }
}

TEST(PreferenceTraining, WithALiveReferenceBeginsExactlyThere) {
  for (const bool lora : {false, true}) {
    LoadedModel model = test::tiny_model(2);
    PreferenceConfig config = tiny_preference();
    config.compute_dtype = "bf16";
    config.reference = "live";
    if (lora) config.lora = LoraConfig{.rank = 2, .alpha = 4.0, .dropout = 0.0, .targets = {"language.layers.*.q_proj"}};
    const PreferenceResult result = train(config, model, 6, fresh("dpo-live-begin"));
    EXPECT_EQ(result.first.at("rewards/chosen"), 0.0);
    EXPECT_EQ(result.first.at("rewards/rejected"), 0.0);
    EXPECT_NE(result.last.at("rewards/chosen"), 0.0) << (lora ? "the updates are left out" : "the copy does not learn");
  }
}

TEST(PreferenceTraining, WithALiveReferenceMayBeAnotherModelOrLearnBesideUpdates) {
  PreferenceConfig config = tiny_preference();
  const auto last = [&](const std::string& reference, LoadedModel* given) {
    config.reference = reference;
    LoadedModel model = test::tiny_model(2);
    PreferenceOptions options;
    options.reference = given;
    return train_preferences(
               config, model, test::tiny_pairs(6), test::tiny_pictures(), 1, "cpu", fresh("dpo-live-other"), {}, options)
        .last;
  };
  const auto expect_same = [&](LoadedModel* given) {
    const auto cached = last("cached", given), live = last("live", given);
    for (const char* name : {"loss", "rewards/chosen", "rewards/margins", "logps/ref_chosen"})
      EXPECT_NEAR(live.at(name), cached.at(name), 1e-3 * std::max(1.0, std::abs(cached.at(name)))) << name;
  };
  LoadedModel other = test::tiny_model(4);
  expect_same(&other);
  // Weights that learn beside the updates need a copy.
  config.lora = LoraConfig{.rank = 2, .alpha = 4.0, .dropout = 0.0, .targets = {"language.layers.*.q_proj"}};
  config.trainable = {"projector.*"};
  expect_same(nullptr);
}

// Killed anywhere, with states written in the background or not, live or cached: the same bits.
TEST(PreferenceTraining, StoppedAnywhereEndsWithTheSameBits) {
  struct Stopped {};
  for (const std::string& reference : {std::string("cached"), std::string("live")}) {
    PreferenceConfig config = tiny_preference();
    config.reference = reference;
    config.checkpoint_every = 1;
    config.checkpoint_in_background = false;
    LoadedModel whole = test::tiny_model(2);
    train(config, whole, 7, fresh("dpo-whole"));
    for (const bool background : {false, true}) {
      config.checkpoint_in_background = background;
      const std::string folder = fresh("dpo-stopped");
      for (const std::int64_t stop : {2, 3, 5}) {
        LoadedModel model = test::tiny_model(2);
        const RoundObserver observer = [&](const std::string& stage, std::int64_t done) {
          if (stage == "preference" && done == stop) throw Stopped();
        };
        EXPECT_THROW(train_preferences(config, model, test::tiny_pairs(7), test::tiny_pictures(), 1, "cpu", folder, observer), Stopped);
      }
      LoadedModel model = test::tiny_model(2);
      EXPECT_EQ(train(config, model, 7, folder).steps, 6);
      EXPECT_EQ(weights_hash(*model.model, {"*"}), weights_hash(*whole.model, {"*"})) << reference << " " << background;
    }
  }
}

std::vector<PreferencePair> single_answers() {
  std::vector<PreferencePair> singles;
  for (const PreferencePair& pair : test::tiny_pairs(5)) {
    PreferencePair single = pair;
    single.single = true;
    (singles.size() % 5 < 2 ? single.rejected : single.chosen).clear();  // two desirable, three not
    singles.push_back(single);
  }
  return singles;
}

// The loss of single answers by its formula, from log-probs that the plainest forward gives.
TEST(PreferenceTraining, LearnsFromSingleAnswers) {
  PreferenceConfig config = tiny_preference();
  config.loss = "kto";
  config.chosen_weight = 1.3;
  config.rejected_weight = 0.7;
  config.batch_pairs = 5;
  config.epochs = 6;
  LoadedModel other = test::tiny_model(4);
  for (const char* reference : {"cached", "live"}) {
    config.reference = reference;
    LoadedModel model = test::tiny_model(2);
    PreferenceOptions options;
    options.reference = &other;
    const std::vector<PreferencePair> singles = single_answers();
    const PictureReader picture = test::tiny_pictures();
    const auto ratio = [&](const PreferencePair& pair, const std::string& answer) {
      PreferencePair own = pair;
      own.single = false;
      own.chosen = own.rejected = answer;
      const Image image = picture(pair.index);
      return (plain_log_prob(model, alone(model, own, true, image)) - plain_log_prob(other, alone(other, own, true, image)))
          .item<double>();
    };
    double kl = 0;
    for (std::size_t i = 0; i < 5; ++i) kl += ratio(singles[i], singles[(i + 1) % 5].completion()) / 5;
    kl = std::max(kl, 0.0);
    double loss = 0, desirable = 0, undesirable = 0;
    for (const PreferencePair& single : singles) {
      const double reward = config.beta * ratio(single, single.completion());
      const double side = single.is_desirable() ? reward - config.beta * kl : config.beta * kl - reward;
      loss += (single.is_desirable() ? 1.3 : 0.7) * (1 - 1 / (1 + std::exp(-side))) / 5;
      (single.is_desirable() ? desirable : undesirable) += reward / (single.is_desirable() ? 2 : 3);
    }
    const PreferenceResult result =
        train_preferences(config, model, singles, picture, 1, "cpu", fresh("kto-single"), {}, options);
    EXPECT_EQ(result.pairs, 5);
    EXPECT_EQ(result.first.at("count/chosen"), 2);
    EXPECT_EQ(result.first.at("count/rejected"), 3);
    EXPECT_NEAR(result.first.at("kl"), kl, 1e-3);
    EXPECT_NEAR(result.first.at("loss"), loss, 1e-4);
    EXPECT_NEAR(result.first.at("rewards/chosen"), desirable, 1e-4);
    EXPECT_NEAR(result.first.at("rewards/rejected"), undesirable, 1e-4);
    EXPECT_NEAR(result.first.at("rewards/margins"), desirable - undesirable, 2e-4);
    EXPECT_LT(result.last.at("loss"), result.first.at("loss"));
    EXPECT_GT(result.last.at("rewards/margins"), result.first.at("rewards/margins"));
  }
}

TEST(PreferenceTraining, OfSingleAnswersIsKtoAlone) {
  const auto error = [](PreferenceConfig config, std::vector<PreferencePair> pairs) {
    return test::error_of([&] {
      LoadedModel model = test::tiny_model(2);
      train_preferences(config, model, pairs, test::tiny_pictures(), 1, "cpu", fresh("kto-error"));
    });
  };
  PreferenceConfig config = tiny_preference();
  EXPECT_NE(error(config, single_answers()).find("single answers are for the loss kto, not sigmoid"), std::string::npos);
  config.loss = "kto";
  std::vector<PreferencePair> mixed = single_answers();
  mixed.push_back(test::tiny_pairs(1)[0]);
  EXPECT_NE(error(config, mixed).find("single answers and pairs cannot be learned from together"), std::string::npos);
  config.sft_weight = 0.5;
  EXPECT_NE(error(config, single_answers()).find("are for pairs, not for single answers"), std::string::npos);
  // A step without a desirable answer says nothing of them.
  config = tiny_preference();
  config.loss = "kto";
  config.batch_pairs = 1;
  LoadedModel model = test::tiny_model(2);
  const std::string folder = fresh("kto-one-kind");
  train_preferences(config, model, single_answers(), test::tiny_pictures(), 1, "cpu", folder);
  for (const Json& row : test::read_lines(folder + "/metrics.jsonl")) {
    EXPECT_EQ(row.contains("rewards/chosen"), row.at("count/chosen") == 1.0);
    EXPECT_EQ(row.contains("rewards/rejected"), row.at("count/rejected") == 1.0);
    EXPECT_FALSE(row.contains("rewards/margins"));
  }
}

TEST(Reference, IsTakenFromTheFolderOfAnotherTraining) {
  PreferenceConfig config = tiny_preference();
  const std::string first = fresh("dpo-cache-first"), second = fresh("dpo-cache-second");
  LoadedModel model = test::tiny_model(2);
  train(config, model, 5, first);
  config.reference_cache = first;
  config.beta = 0.2;  // what the reference says does not depend on it
  LoadedModel again = test::tiny_model(2);
  const PreferenceResult result = train(config, again, 7, second);
  EXPECT_EQ(result.references.from_cache, 5);
  EXPECT_EQ(result.references.computed, 2);
  EXPECT_EQ(result.to_json().at("references"), (Json{{"from_cache", 5}, {"computed", 2}}));
  const auto rows = test::read_lines(first + "/reference.jsonl"), taken = test::read_lines(second + "/reference.jsonl");
  ASSERT_EQ(taken.size(), 7u);
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(taken[i], rows[i]);
  EXPECT_NEAR(result.first.at("loss"), std::log(2.0), 1e-5);
  // Other weights, and another treatment, are other entries.
  LoadedModel other = test::tiny_model(4);
  EXPECT_EQ(train(config, other, 5, fresh("dpo-cache-other")).references.from_cache, 0);
  config.mean_over_tokens = true;
  LoadedModel third = test::tiny_model(2);
  EXPECT_EQ(train(config, third, 5, fresh("dpo-cache-mean")).references.from_cache, 0);
  // What a log of one's own holds comes first, and is counted in the same way after a restart.
  config = tiny_preference();
  config.reference_cache = first;
  config.beta = 0.2;
  std::filesystem::remove_all(second + "/state");
  LoadedModel resumed = test::tiny_model(2);
  EXPECT_EQ(train(config, resumed, 7, second).references.from_cache, 5);

  config.reference_cache = test::test_folder() + "/nowhere";
  EXPECT_NE(test::error_of([&] { train(config, resumed, 5, fresh("dpo-cache-none")); }).find("nowhere/reference.jsonl is not there"),
            std::string::npos);
  const std::string damaged = fresh("dpo-cache-damaged");
  make_folders(damaged);
  write_file_atomic(damaged + "/reference.jsonl", "{\"key\": 1, \"chosen_logps\": 2}\n");
  config.reference_cache = damaged;
  EXPECT_NE(test::error_of([&] { train(config, resumed, 5, fresh("dpo-cache-bad")); }).find("reference.jsonl:1:"), std::string::npos);
  config.reference = "live";
  EXPECT_NE(test::error_of([&] { config.validate("preference"); }).find("a live reference is not cached"), std::string::npos);
}

TEST(Reference, TellsPicturesOfOneColourApart) {
  PreferenceConfig config = tiny_preference();
  const auto key = [&](int width, int height) {
    LoadedModel model = test::tiny_model(2);
    const std::string folder = fresh("dpo-picture-key");
    const PictureReader picture = [&](std::int64_t) {
      Image image = Image::outline(width, height);
      image.rgb.assign(static_cast<std::size_t>(width * height * 3), 255);
      return image;
    };
    train_preferences(config, model, test::tiny_pairs(1), picture, 1, "cpu", folder);
    return test::read_lines(folder + "/reference.jsonl").at(0).at("key").get<std::string>();
  };
  EXPECT_EQ(key(28, 56), key(28, 56));
  EXPECT_NE(key(28, 56), key(56, 28));
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
