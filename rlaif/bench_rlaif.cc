#include "rlaif/bench_rlaif.h"

#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "model/generation.h"
#include "rlaif/checkpoint_judge.h"
#include "rlaif/preference_loss.h"
#include "rlaif/preference_pack.h"
#include "trainer/bench_device.h"
#include "trainer/optimizer.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kPairs = 4, kPromptTokens = 24, kShortest = 40, kLongest = 160;
constexpr std::int64_t kAnswers = 10, kAnswerTokens = 64;
constexpr std::int64_t kQuestions = 24, kQuestionTokens = 20;

torch::Dtype dtype_of(const BenchSettings& settings) {
  return settings.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
}

/// A model of random weights that everything learns, and how many there are.
struct BenchModel {
  explicit BenchModel(const BenchSettings& settings)
      : device(bench_device(settings.device)), model(settings.shapes.model, 0) {
    model->to(device);
    for (const auto& item : model->named_parameters()) {
      parameters += item.value().numel();
      weights.emplace_back(item.key(), item.value());
    }
  }
  torch::Device device;
  VisionLanguageModel model;
  std::vector<std::pair<std::string, torch::Tensor>> weights;
  std::int64_t parameters = 0;
};

/// Random pictures and texts: a picture's tokens stand before the text.
class BenchData {
 public:
  explicit BenchData(const BenchShapes& shapes) : shapes_(shapes) {}

  PatchValues picture() {
    const auto& model = shapes_.model;
    PatchValues patches(static_cast<std::size_t>(shapes_.patches() * 3 * model.image.patch_size * model.image.patch_size));
    for (float& value : patches) value = static_cast<float>(random_.normal());
    return patches;
  }
  std::vector<std::int32_t> text(std::int64_t tokens) {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<std::int32_t>(random_.between(5, shapes_.model.language.vocab - 1)));
    return ids;
  }
  EncodedChat chat(const PatchValues& picture, const std::vector<std::int32_t>& text, std::int64_t targets) const {
    const std::int64_t queries = shapes_.model.projector.num_queries;
    const auto side = static_cast<int>(shapes_.model.vision.position_side);
    EncodedChat chat;
    chat.ids.assign(static_cast<std::size_t>(queries), 0);
    chat.ids.insert(chat.ids.end(), text.begin(), text.end());
    chat.is_target.assign(chat.ids.size(), 0);
    std::fill(chat.is_target.end() - targets, chat.is_target.end(), 1);
    chat.visual_positions.resize(static_cast<std::size_t>(queries));
    std::iota(chat.visual_positions.begin(), chat.visual_positions.end(), 0);
    chat.grids.push_back({side, side});
    chat.patches = picture;
    return chat;
  }

 private:
  const BenchShapes& shapes_;
  Random random_{{1}};
};

/// As many pieces as the model has, and an end of text behind them that cannot be drawn: all answers reach their length.
Tokenizer endless_tokenizer(std::int64_t vocab) {
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  for (std::int64_t i = 0; i <= vocab; ++i) vocabulary.pieces.push_back(fmt::format("t{}", i));
  vocabulary.pieces[0] = "<unk>";
  vocabulary.scores.assign(vocabulary.pieces.size(), 0.0F);
  vocabulary.types.assign(vocabulary.pieces.size(), TokenType::kNormal);
  vocabulary.types[0] = TokenType::kUnknown;
  vocabulary.types.back() = TokenType::kControl;
  vocabulary.unk_id = 0;
  vocabulary.eos_id = static_cast<std::int32_t>(vocab);
  vocabulary.add_bos = false;
  return Tokenizer(std::move(vocabulary));
}

}  // namespace

BenchResult bench_preferences(const BenchSettings& settings) {
  BenchModel bench(settings);
  BenchData data(settings.shapes);
  bench.model->train();
  OptimizerConfig config;
  config.learning_rate = 1e-6;
  config.schedule = "constant";
  config.warmup_steps = 0;
  config.weight_decay = 0.01;
  config.beta2 = 0.999;
  Optimizer optimizer(config, bench.weights, settings.steps + 1);
  PreferenceConfig preference;
  preference.share_prompt = true;
  BenchResult result;
  result.parameters = bench.parameters;
  const std::int64_t queries = settings.shapes.model.projector.num_queries;
  for (std::int64_t step = 0; step <= settings.steps; ++step) {
    const std::vector<std::int64_t> lengths =
        bench_lengths(2 * kPairs, static_cast<std::uint64_t>(step), kShortest, kLongest);
    std::vector<EncodedPair> pairs;
    double useful = 0;
    for (std::int64_t pair = 0; pair < kPairs; ++pair) {
      const PatchValues picture = data.picture();
      const std::vector<std::int32_t> prompt = data.text(kPromptTokens);
      const auto answer = [&](std::int64_t length) {
        std::vector<std::int32_t> text = prompt;
        for (const std::int32_t id : data.text(length)) text.push_back(id);
        EncodedSample sample;
        sample.chat = data.chat(picture, text, length);
        useful += static_cast<double>(sample.num_tokens());
        return sample;
      };
      EncodedSample chosen = answer(lengths[static_cast<std::size_t>(pair)]);
      EncodedSample rejected = answer(lengths[static_cast<std::size_t>(kPairs + pair)]);
      pairs.push_back({std::move(chosen), std::move(rejected)});
    }
    const torch::Tensor reference = torch::randn({kPairs, 2}).to(bench.device);
    const double seconds = seconds_on(bench.device, [&] {
      const ComputeDtype guard(dtype_of(settings));
      for (const PairPack& pack : pack_pairs(std::move(pairs), preference)) {
        const PackLogProbs policy = pack_log_probs(bench.model, pack, preference, bench.device);
        PairLogProbs log_probs;
        log_probs.policy_chosen = policy.sums.select(1, 0);
        log_probs.policy_rejected = policy.sums.select(1, 1);
        log_probs.reference_chosen = reference.select(1, 0);
        log_probs.reference_rejected = reference.select(1, 1);
        log_probs.chosen_tokens = policy.tokens.select(1, 0);
        log_probs.rejected_tokens = policy.tokens.select(1, 1);
        preference_losses(log_probs, preference).sum().backward();
      }
      optimizer.step(1.0 / kPairs);
    });
    if (step == 0) continue;  // warms up
    result.seconds.push_back(seconds);
    result.useful += useful;
  }
  result.peak_device_mib = peak_device_mib(bench.device);
  result.details = {{"pairs", kPairs}, {"visual_tokens", queries}};
  return result;
}

BenchResult bench_rollout(const BenchSettings& settings) {
  BenchModel bench(settings);
  BenchData data(settings.shapes);
  const ModelConfig& config = settings.shapes.model;
  const Tokenizer tokenizer = endless_tokenizer(config.language.vocab);
  PromptConfig prompt_config;
  prompt_config.chat_template = "vicuna_v1";
  prompt_config.image_layout = "bare";
  prompt_config.num_queries = config.projector.num_queries;
  const PromptEncoder encoder(tokenizer, prompt_config, config.image);
  SamplingConfig sampling;
  sampling.temperature = 0.7;
  sampling.top_p = 0.95;
  sampling.num_samples = kAnswers;
  sampling.max_new_tokens = kAnswerTokens;
  const ComputeDtype guard(dtype_of(settings));
  const CachedWeights cached;
  BenchResult result;
  result.parameters = bench.parameters;
  for (std::int64_t step = 0; step <= settings.steps; ++step) {
    const EncodedChat prompt = data.chat(data.picture(), data.text(kPromptTokens), 0);
    std::vector<Generation> answers;
    const double seconds = seconds_on(bench.device, [&] {
      answers = generate(bench.model, encoder, prompt, sampling, static_cast<std::uint64_t>(step));
    });
    if (step == 0) continue;  // warms up
    result.seconds.push_back(seconds);
    for (const Generation& answer : answers) result.useful += static_cast<double>(answer.ids.size());
  }
  result.peak_device_mib = peak_device_mib(bench.device);
  result.details = {{"answers", kAnswers}, {"answer_tokens", kAnswerTokens}};
  return result;
}

BenchResult bench_judge(const BenchSettings& settings) {
  BenchModel bench(settings);
  BenchData data(settings.shapes);
  const ComputeDtype guard(dtype_of(settings));
  const CachedWeights cached;
  BenchResult result;
  result.parameters = bench.parameters;
  for (std::int64_t step = 0; step <= settings.steps; ++step) {
    const PatchValues picture = data.picture();
    std::vector<EncodedChat> questions;
    for (std::int64_t i = 0; i < kQuestions; ++i)
      questions.push_back(data.chat(i == 0 ? picture : PatchValues(), data.text(kQuestionTokens), 0));
    const double seconds = seconds_on(
        bench.device, [&] { shared_first_token_log_probs(bench.model, questions, {5, 6, 7, 8}); });
    if (step == 0) continue;  // warms up
    result.seconds.push_back(seconds);
    result.useful += static_cast<double>(kQuestions);
  }
  result.peak_device_mib = peak_device_mib(bench.device);
  result.details = {{"questions", kQuestions}, {"question_tokens", kQuestionTokens}};
  return result;
}

}  // namespace pocketvlm
