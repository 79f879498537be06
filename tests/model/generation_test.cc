#include "model/generation.h"

#include <filesystem>
#include <optional>
#include <set>

#include "data/tokenizer_training/tokenizer_training.h"
#include "tests/model/model_testing.h"

namespace pocketvlm {
namespace {

class GenerationTest : public testing::Test {
 protected:
  GenerationTest() : config_(tiny_config()) {
    const std::string path = testing::TempDir() + "/generation_tokenizer.model";
    TokenizerTrainingConfig training;
    training.vocab_size = 298;  // fewer than the 300 rows of the embedding
    int line = 0;
    train_tokenizer(
        training,
        [&](std::string& sentence) {
          sentence = fmt::format("a small dog and {} cats near the old tree", line);
          return line++ < 200;
        },
        path);
    tokenizer_.emplace(Tokenizer::load(path));
    encoder_.emplace(*tokenizer_, config_.prompt, config_.image);
    model_ = VisionLanguageModel(config_, 3);
    scatter_weights(*model_, 6);
  }

  std::vector<EncodedChat> prompts(int64_t count) {
    Random random({31});
    ModelConfig known = config_;
    known.language.vocab = 298;
    std::vector<EncodedChat> result;
    for (int64_t i = 0; i < count; ++i) {
      std::vector<std::array<int, 2>> grids;
      if (i % 3 == 0) grids = {{4, 4}};
      if (i % 3 == 1) grids = {{2, 5}, {3, 3}};
      result.push_back(random_chat(known, random, 3 + 5 * (i % 4), grids));
    }
    return result;
  }

  ModelConfig config_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<PromptEncoder> encoder_;
  VisionLanguageModel model_{nullptr};
};

void expect_same_answer(const Generation& actual, const Generation& expected) {
  EXPECT_EQ(actual.ids, expected.ids);
  EXPECT_EQ(actual.text, expected.text);
  EXPECT_EQ(actual.stopped, expected.stopped);
  ASSERT_EQ(actual.log_probs.size(), expected.log_probs.size());
  for (std::size_t i = 0; i < expected.log_probs.size(); ++i) {
    EXPECT_NEAR(actual.log_probs[i], expected.log_probs[i], 1e-3);
  }
}

TEST_F(GenerationTest, CachedDecodingEqualsTheFullForwardAtEveryStep) {
  torch::NoGradGuard no_grad;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const ComputeDtype compute(dtype);
    const std::vector<int64_t> lengths = {7, 20, 3};
    const int64_t samples = 2, steps = 5;
    const torch::Tensor prompts = torch::randint(3, 298, {30});
    const torch::Tensor tails = torch::randint(3, 298, {6, steps});
    KvCache cache(3, samples, steps);
    const torch::Tensor embeddings = model_->language->embed(prompts);
    // The last prompt, then the others: places need not be filled in order, and prefixes may grow.
    model_->language->prefill_prompts(embeddings.narrow(0, 27, 3), {3}, cache, {2});
    model_->language->prefill_prompts(embeddings.narrow(0, 0, 27), {7, 20}, cache, {0, 1});
    const auto starts = prompts.split_with_sizes(lengths);
    const auto expect_full_forward = [&](const torch::Tensor& decoded, const torch::Tensor& whole) {
      const torch::Tensor full =
          model_->language->forward(model_->language->embed(whole), torch::arange(whole.size(0)), {whole.size(0)});
      EXPECT_LT(relative_difference(decoded, full[-1]), dtype == torch::kFloat32 ? 1e-5 : 6e-2);
    };
    for (int64_t step = 0; step < steps; ++step) {
      // Sequences 2, 3 and 4 end early, and rows stand in any order.
      const std::vector<int64_t> running = step < 3 ? std::vector<int64_t>{4, 0, 1, 2, 3, 5} : std::vector<int64_t>{5, 0, 1};
      std::vector<torch::Tensor> next;
      for (const int64_t sequence : running) next.push_back(tails[sequence].narrow(0, step, 1));
      const torch::Tensor decoded = model_->language->decode(model_->language->embed(torch::cat(next)), cache, running);
      for (std::size_t row = 0; row < running.size(); ++row) {
        const int64_t sequence = running[row];
        SCOPED_TRACE(fmt::format("sequence {} step {}", sequence, step));
        expect_full_forward(decoded[static_cast<int64_t>(row)],
                            torch::cat({starts[static_cast<std::size_t>(sequence / samples)],
                                        tails[sequence].narrow(0, 0, step + 1)}));
      }
    }
    EXPECT_NE(error_of([&] { model_->language->decode(torch::zeros({2, 32}), cache, {0, 4}); }).find("full"),
              std::string::npos);
    // Another prompt, longer than all before, in the place of the middle one, beside the others.
    const torch::Tensor another = torch::randint(3, 298, {25});
    model_->language->prefill_prompts(model_->language->embed(another), {25}, cache, {1});
    const torch::Tensor decoded =
        model_->language->decode(model_->language->embed(tails.index({torch::tensor({3, 4}), 3})), cache, {3, 4});
    expect_full_forward(decoded[0], torch::cat({another, tails[3].narrow(0, 3, 1)}));
    expect_full_forward(decoded[1], torch::cat({starts[2], tails[4].narrow(0, 0, 4)}));
  }
}

TEST_F(GenerationTest, GreedyTakesTheBestTokenOfTheFullForwardEachTime) {
  torch::NoGradGuard no_grad;
  SamplingConfig sampling;
  sampling.max_new_tokens = 6;
  for (const EncodedChat& prompt : prompts(3)) {
    const std::vector<Generation> answers = generate(model_, *encoder_, prompt, sampling);
    ASSERT_EQ(answers.size(), 1);
    EncodedChat whole = prompt;
    for (std::size_t i = 0; i < answers[0].ids.size(); ++i) {
      const torch::Tensor hidden = model_->hidden_states(to_batch(pack({as_sample(whole, 1.0F)})));
      const torch::Tensor log_probs = torch::log_softmax(model_->logits(hidden)[-1], 0);
      EXPECT_EQ(log_probs.narrow(0, 0, 298).argmax().item<int64_t>(), answers[0].ids[i]);
      EXPECT_NEAR(torch::log_softmax(model_->logits(hidden)[-1].narrow(0, 0, 298), 0).max().item<double>(),
                  answers[0].log_probs[i],
                  1e-3);
      whole.ids.push_back(answers[0].ids[i]);
      whole.is_target.push_back(1);
    }
  }
}

TEST_F(GenerationTest, EachSampleIsTheSameWhateverIsSampledBesideIt) {
  SamplingConfig sampling;
  sampling.temperature = 1.0;
  sampling.max_new_tokens = 8;
  const EncodedChat prompt = prompts(1)[0];
  sampling.num_samples = 4;
  const std::vector<Generation> four = generate(model_, *encoder_, prompt, sampling, 17);
  ASSERT_EQ(four.size(), 4);
  for (int64_t n = 1; n < 4; ++n) {
    sampling.num_samples = n;
    const std::vector<Generation> fewer = generate(model_, *encoder_, prompt, sampling, 17);
    for (std::size_t i = 0; i < fewer.size(); ++i) expect_same_answer(fewer[i], four[i]);
  }
  EXPECT_NE(four[0].ids, four[1].ids);
  sampling.num_samples = 1;
  EXPECT_NE(generate(model_, *encoder_, prompt, sampling, 18)[0].ids, four[0].ids) << "another prompt key";
  sampling.seed = 1;
  EXPECT_NE(generate(model_, *encoder_, prompt, sampling, 17)[0].ids, four[0].ids) << "another seed";
}

TEST_F(GenerationTest, EachOfTenBranchesIsWhatItsSeedGivesAlone) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const ComputeDtype compute(dtype);
    SamplingConfig sampling;
    sampling.temperature = 1.0;
    sampling.top_p = 0.95;
    sampling.max_new_tokens = 12;
    sampling.num_samples = 10;
    const EncodedChat prompt = prompts(1)[0];
    const std::vector<Generation> ten = generate(model_, *encoder_, prompt, sampling, 17);
    ASSERT_EQ(ten.size(), 10);
    sampling.num_samples = 1;
    for (int64_t i = 0; i < 10; ++i) {
      sampling.first_sample = i;
      expect_same_answer(generate(model_, *encoder_, prompt, sampling, 17)[0], ten[static_cast<std::size_t>(i)]);
    }
  }
}

TEST_F(GenerationTest, StopTextsRepeatsAndTheLeastLengthEndAnswersAsAsked) {
  const EncodedChat prompt = prompts(1)[0];
  SamplingConfig sampling;
  sampling.temperature = 1.0;
  sampling.max_new_tokens = 12;
  for (const int64_t least : {0, 9}) {
    sampling.min_new_tokens = least;
    sampling.stop = {};
    const Generation plain = generate(model_, *encoder_, prompt, sampling, 3)[0];
    ASSERT_EQ(plain.ids.size(), 12);
    const auto text_of = [&](int64_t tokens) {
      return tokenizer_->decode({plain.ids.begin(), plain.ids.begin() + tokens});
    };
    const std::string wanted = text_of(6).substr(text_of(4).size());
    ASSERT_FALSE(wanted.empty());
    sampling.stop = {"never written", wanted};
    const Generation cut = generate(model_, *encoder_, prompt, sampling, 3)[0];
    EXPECT_TRUE(cut.stopped);
    EXPECT_LE(cut.ids.size(), std::max<int64_t>(6, least));
    EXPECT_GE(cut.ids.size(), least) << "not looked for before";
    EXPECT_EQ(cut.text, plain.text.substr(0, plain.text.find(wanted)));
    EXPECT_EQ(cut.log_probs.size(), cut.ids.size());
  }

  torch::NoGradGuard no_grad;
  const std::int32_t stop = encoder_->stop_ids().front();
  torch::Tensor head = model_->named_parameters()["language.lm_head.weight"];
  const torch::Tensor hidden = model_->hidden_states(to_batch(pack({as_sample(prompt, 1.0F)})))[-1];
  head.zero_();  // all tokens alike, but the stop token far ahead: it comes as soon as it may
  head[stop].copy_(hidden * 100);
  sampling = {};
  sampling.temperature = 1.0;
  sampling.max_new_tokens = 8;
  EXPECT_EQ(generate(model_, *encoder_, prompt, sampling)[0].ids.size(), 0);
  sampling.min_new_tokens = 1;
  EXPECT_GE(generate(model_, *encoder_, prompt, sampling)[0].ids.size(), 1);

  head.zero_();
  sampling = {};  // greedy among equals: the first id again and again
  sampling.max_new_tokens = 8;
  sampling.max_repeats = 5;
  const Generation repeated = generate(model_, *encoder_, prompt, sampling)[0];
  EXPECT_EQ(repeated.ids.size(), 5);
  EXPECT_TRUE(repeated.repeated);
  EXPECT_FALSE(repeated.stopped);
  sampling.max_repeats = 0;
  sampling.stop_ids = {repeated.ids.front()};
  const Generation ended = generate(model_, *encoder_, prompt, sampling)[0];
  EXPECT_TRUE(ended.stopped);
  EXPECT_TRUE(ended.ids.empty());
  sampling.stop_ids = {-1};
  EXPECT_THROW(generate(model_, *encoder_, prompt, sampling), Error);
  sampling.stop_ids = {};
  sampling.max_repeats = 1;
  EXPECT_THROW(generate(model_, *encoder_, prompt, sampling), Error);
}

TEST_F(GenerationTest, ABatchOfPromptsAnswersAsEachAlone) {
  const std::vector<EncodedChat> chats = prompts(50);
  std::vector<uint64_t> keys;
  for (uint64_t i = 0; i < 50; ++i) keys.push_back(100 + i);
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const ComputeDtype compute(dtype);
    for (const double temperature : {0.0, 0.8}) {
      SamplingConfig sampling;
      sampling.temperature = temperature;
      sampling.top_p = 0.9;
      sampling.max_new_tokens = 10;
      sampling.repetition_penalty = 1.3;
      sampling.num_samples = 3;  // 150 answers: more than are decoded together
      for (int64_t id = 0; id < 30; ++id) sampling.stop_ids.push_back(10 * id);  // they end at any length
      std::set<std::size_t> answer_lengths;
      for (const int64_t branches : {1, 8, 128, 1000}) {
        const std::vector<Generation> together = generate_batch(model_, *encoder_, chats, sampling, keys, branches);
        ASSERT_EQ(together.size(), 150);
        for (std::size_t p = 0; p < chats.size(); ++p) {
          const std::vector<Generation> alone = generate(model_, *encoder_, chats[p], sampling, keys[p]);
          for (std::size_t s = 0; s < 3; ++s) {
            expect_same_answer(together[p * 3 + s], alone[s]);
            answer_lengths.insert(alone[s].ids.size());
            // Products with cached bfloat16 weights give a row the same bits whatever stands beside it.
            if (dtype == torch::kBFloat16) {
              EXPECT_EQ(together[p * 3 + s].log_probs, alone[s].log_probs);
            }
          }
        }
      }
      EXPECT_GT(answer_lengths.size(), 4U);
    }
  }
  EXPECT_TRUE(generate_batch(model_, *encoder_, {}, SamplingConfig{}).empty());
}

TEST_F(GenerationTest, StopsAtStopTokensAndTellsTokensAsTheyCome) {
  // A model that always wants to stop: its output rows point away from the stop token's, except that one.
  const std::int32_t stop = encoder_->stop_ids().front();
  SamplingConfig sampling;
  sampling.max_new_tokens = 5;
  std::vector<std::int32_t> told;
  const EncodedChat prompt = prompts(1)[0];
  const Generation answer =
      generate(model_, *encoder_, prompt, sampling, 0, [&](std::int32_t id) { told.push_back(id); })[0];
  EXPECT_EQ(told, answer.ids);
  EXPECT_FALSE(answer.stopped);
  EXPECT_EQ(answer.ids.size(), 5);
  EXPECT_EQ(answer.text, tokenizer_->decode(answer.ids));
  {
    torch::NoGradGuard no_grad;
    torch::Tensor head = model_->named_parameters()["language.lm_head.weight"];
    const torch::Tensor hidden = model_->hidden_states(to_batch(pack({as_sample(prompt, 1.0F)})))[-1];
    head[stop].copy_(hidden * 10);
  }
  const Generation stopped = generate(model_, *encoder_, prompt, sampling)[0];
  EXPECT_TRUE(stopped.stopped);
  EXPECT_TRUE(stopped.ids.empty());
}

TEST_F(GenerationTest, FirstTokenLogProbsEqualTheFullForward) {
  torch::NoGradGuard no_grad;
  std::vector<EncodedChat> chats = prompts(8);
  chats.push_back(chats[1]);  // the same picture twice
  const std::vector<std::int32_t> candidates = {5, 280, 17};
  const auto scores = first_token_log_probs(model_, chats, candidates);
  ASSERT_EQ(scores.size(), chats.size());
  for (std::size_t p = 0; p < chats.size(); ++p) {
    const torch::Tensor hidden = model_->hidden_states(to_batch(pack({as_sample(chats[p], 1.0F)})));
    const torch::Tensor log_probs = torch::log_softmax(model_->logits(hidden)[-1], 0);
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      EXPECT_NEAR(scores[p][c], log_probs[candidates[c]].item<double>(), 1e-4);
    }
  }
}

TEST_F(GenerationTest, BadPromptsAndCandidatesAreErrors) {
  SamplingConfig sampling;
  EncodedChat prompt = prompts(1)[0];
  EncodedChat empty;
  EXPECT_NE(error_of([&] { generate(model_, *encoder_, empty, sampling); }).find("empty"), std::string::npos);
  prompt.visual_positions.pop_back();
  EXPECT_NE(error_of([&] { generate(model_, *encoder_, prompt, sampling); }).find("4 places"), std::string::npos);
  EncodedChat great;
  great.ids.assign(256, 5);
  EXPECT_NE(error_of([&] { generate(model_, *encoder_, great, sampling); }).find("max_positions"), std::string::npos);
  EXPECT_NE(error_of([&] { first_token_log_probs(model_, {great}, {400}); }).find("400"), std::string::npos);
  EXPECT_NE(error_of([&] { generate_batch(model_, *encoder_, prompts(2), sampling, {1}); }).find("1 prompt keys"),
            std::string::npos);
}

TEST_F(GenerationTest, CachedWeightsAreDroppedWithTheirGuard) {
  torch::NoGradGuard no_grad;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const ComputeDtype compute(dtype);
    const torch::Tensor x = torch::randn({3, 8});
    Linear linear(8, 4, true);
    linear->weight.normal_();
    linear->bias.normal_();
    const torch::Tensor before = linear->forward(x);
    {
      const CachedWeights cached;
      const torch::Tensor cached_once = linear->forward(x);
      EXPECT_LT(relative_difference(cached_once, before), dtype == torch::kFloat32 ? 1e-6 : 8e-3);
      linear->weight.zero_();
      EXPECT_EQ(torch::equal(linear->forward(x), cached_once), dtype == torch::kBFloat16) << "the copy is used";
    }
    const CachedWeights cached;
    EXPECT_LT(relative_difference(linear->forward(x), linear->bias.expand({3, 4})), 8e-3);
  }
}

TEST_F(GenerationTest, CachedWeightsGiveARowTheSameBitsWhateverStandsBesideIt) {
  const ComputeDtype compute(torch::kBFloat16);
  torch::NoGradGuard no_grad;
  const CachedWeights cached;
  Linear first(37, 50, false), second(37, 3, false);
  first->weight.normal_();
  second->weight.normal_();
  const torch::Tensor x = torch::randn({29, 37});
  const torch::Tensor all = linear_group(x, {first.get(), second.get()});
  EXPECT_EQ(all.size(1), 53);
  for (const int64_t row : {0, 11, 12, 28}) {
    EXPECT_TRUE(torch::equal(linear_group(x.narrow(0, row, 1), {first.get(), second.get()})[0], all[row]));
  }
}

}  // namespace
}  // namespace pocketvlm
