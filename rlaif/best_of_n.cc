#include "rlaif/best_of_n.h"

#include <ATen/core/grad_mode.h>

#include <utility>

#include "base/error.h"
#include "base/progress.h"

namespace pocketvlm {
namespace {

// Summed log-probs and tokens of both answers of each pair.
struct Sums {
  std::vector<float> log_probs, tokens;
};

Sums sums_of(const PreferenceConfig& config,
             LoadedModel& model,
             const std::vector<PreferencePair>& pairs,
             const PictureReader& picture,
             torch::Device device) {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < pairs.size(); ++i) all.push_back(i);
  Sums sums;
  for (const PairPack& pack : make_packs(pairs, all, picture, *model.encoder, config)) {
    const PackLogProbs log_probs = pack_log_probs(model.model, pack, config, device);
    const auto append = [](const torch::Tensor& values, std::vector<float>& to) {
      const torch::Tensor flat = values.to(torch::kCPU).contiguous();
      to.insert(to.end(), flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel());
    };
    append(log_probs.plain, sums.log_probs);
    append(log_probs.tokens, sums.tokens);
  }
  return sums;
}

}  // namespace

std::vector<RankedAnswers> rank_answers(const PreferenceConfig& config,
                                        LoadedModel& policy,
                                        LoadedModel& reference,
                                        const std::vector<PromptAnswers>& prompts,
                                        const PictureReader& picture,
                                        const std::string& device) {
  const auto preprocessing = [](const LoadedModel& model) {
    return config_to_json(model.encoder->prompt()).dump() + config_to_json(model.encoder->image()).dump() +
           fmt::format("{}", model.tokenizer->size());
  };
  PV_CHECK(preprocessing(policy) == preprocessing(reference),
           "best of N: policy and reference have different vocabularies, templates or picture "
           "settings; take the checkpoint that the policy was aligned from");
  const at::NoGradGuard no_grad;
  for (LoadedModel* model : {&policy, &reference}) {
    model->model->eval();
    model->model->to(torch::Device(device));
  }
  const ComputeDtype compute(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
  PreferenceConfig plain = config;
  plain.changed_token_weight = plain.length_tail_weight = 1.0;
  plain.mean_over_tokens = false;
  std::vector<RankedAnswers> ranked;
  Progress progress("rank: prompts", static_cast<std::int64_t>(prompts.size()));
  for (const PromptAnswers& prompt : prompts) {
    RankedAnswers result{prompt.index, std::vector<std::optional<double>>(prompt.answers.size()), 0};
    // Two answers a pair; the last stands alone in both places when they are odd.
    std::vector<std::size_t> fitting;
    Image outline;  // lengths need no pixels
    if (!prompt.answers.empty()) {
      const Image image = picture(prompt.index);
      outline = Image::outline(image.width, image.height);
    }
    for (std::size_t i = 0; i < prompt.answers.size(); ++i) {
      PreferencePair pair;
      pair.index = prompt.index;
      pair.question = prompt.question;
      pair.chosen = pair.rejected = prompt.answers[i].text;
      try {
        if (encode_pair(pair, outline, *policy.encoder).chosen.num_tokens() <=
            policy.config.language.max_positions)
          fitting.push_back(i);
      } catch (const Error&) {
        // Its reward stays empty.
      }
    }
    std::vector<PreferencePair> pairs;
    for (std::size_t i = 0; i < fitting.size(); i += 2) {
      PreferencePair pair;
      pair.index = prompt.index;
      pair.question = prompt.question;
      pair.chosen = prompt.answers[fitting[i]].text;
      pair.rejected = prompt.answers[fitting[std::min(i + 1, fitting.size() - 1)]].text;
      pairs.push_back(std::move(pair));
    }
    const Sums of_policy = sums_of(plain, policy, pairs, picture, device);
    const Sums of_reference = sums_of(plain, reference, pairs, picture, device);
    for (std::size_t i = 0; i < fitting.size(); ++i) {
      const double ratio = static_cast<double>(of_policy.log_probs[i]) - of_reference.log_probs[i];
      result.rewards[fitting[i]] = config.beta * ratio / of_policy.tokens[i];
    }
    for (std::size_t i = 0; i < result.rewards.size(); ++i) {
      const auto& best = result.rewards[result.best];
      if (result.rewards[i] && (!best || *result.rewards[i] > *best)) result.best = i;
    }
    ranked.push_back(std::move(result));
    progress.update(static_cast<std::int64_t>(ranked.size()));
  }
  progress.finish();
  return ranked;
}

}  // namespace pocketvlm
