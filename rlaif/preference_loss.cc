#include "rlaif/preference_loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/where.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

// -log sigmoid(x), the `ls` of the header.
torch::Tensor logistic_loss(const torch::Tensor& x) { return -at::log_sigmoid(x); }

const torch::Tensor& plain_chosen(const PairLogProbs& pairs) {
  return pairs.plain_chosen.defined() ? pairs.plain_chosen : pairs.policy_chosen;
}

torch::Tensor mean_negative_log_prob(const PairLogProbs& pairs) {
  return -plain_chosen(pairs) / pairs.chosen_tokens;
}

// The mean over all chosen tokens of the step, written as a value for each pair whose mean over the step's pairs is
// that.
torch::Tensor token_mean_loss(const PairLogProbs& pairs) {
  const double tokens = pairs.step_tokens > 0 ? pairs.step_tokens
                                              : pairs.chosen_tokens.sum().item<double>();
  const double count = pairs.step_pairs > 0 ? pairs.step_pairs
                                            : static_cast<double>(pairs.policy_chosen.size(0));
  return -plain_chosen(pairs) * (count / tokens);
}

torch::Tensor one_loss(const std::string& name,
                       const PairLogProbs& pairs,
                       const PreferenceConfig& config) {
  const double beta = config.beta;
  const double smoothing = config.label_smoothing;
  const torch::Tensor chosen = pairs.policy_chosen - pairs.reference_chosen;
  const torch::Tensor rejected = pairs.policy_rejected - pairs.reference_rejected;
  const torch::Tensor scaled = beta * (chosen - rejected);
  const auto per_token = [&] {
    return chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens;
  };
  if (name == "sigmoid") return logistic_loss(scaled);
  if (name == "hinge") return at::relu(1.0 - scaled);
  if (name == "ipo" || name == "ipo_sum") {
    PV_CHECK(beta > 0, "preference.beta is 0; the loss ipo divides by it: give a positive beta");
    return ((name == "ipo" ? per_token() : chosen - rejected) - 0.5 / beta).square();
  }
  if (name == "sigmoid_norm") return logistic_loss(beta * per_token());
  if (name == "cdpo") {
    return (1 - smoothing) * logistic_loss(scaled) + smoothing * logistic_loss(-scaled);
  }
  if (name == "robust") {
    return ((1 - smoothing) * logistic_loss(scaled) - smoothing * logistic_loss(-scaled)) /
           (1 - 2 * smoothing);
  }
  if (name == "simpo") {
    const torch::Tensor means =
        pairs.policy_chosen / pairs.chosen_tokens - pairs.policy_rejected / pairs.rejected_tokens;
    return logistic_loss(beta * means - config.simpo_gamma);
  }
  if (name == "bco_pair") return logistic_loss(beta * chosen) + logistic_loss(-beta * rejected);
  if (name == "kto") {
    const torch::Tensor of_chosen = config.chosen_weight * (1 - at::sigmoid(beta * (chosen - pairs.kl)));
    const torch::Tensor of_rejected = config.rejected_weight * (1 - at::sigmoid(beta * (pairs.kl - rejected)));
    return pairs.desirable.defined() ? at::where(pairs.desirable, of_chosen, of_rejected) : 0.5 * (of_chosen + of_rejected);
  }
  if (name == "sft") return token_mean_loss(pairs);
  fail("preference.loss: unknown loss \"{}\"", name);
}

}  // namespace

torch::Tensor preference_losses(const PairLogProbs& pairs, const PreferenceConfig& config) {
  torch::Tensor losses;
  for (const auto& [name, weight] : config.weighted_losses()) {
    const torch::Tensor loss = one_loss(name, pairs, config);
    const torch::Tensor weighted = weight == 1.0 ? loss : weight * loss;
    losses = losses.defined() ? losses + weighted : weighted;
  }
  PV_CHECK(losses.defined(), "preference.mix: names no loss");
  if (config.sft_weight > 0) losses = losses + config.sft_weight * mean_negative_log_prob(pairs);
  return losses;
}

std::map<std::string, double> preference_metric_sums(const PairLogProbs& pairs,
                                                     const torch::Tensor& losses,
                                                     const PreferenceConfig& config) {
  const at::NoGradGuard no_grad;
  const bool without_reference = config.loss == "simpo";
  const torch::Tensor chosen =
      config.beta * (without_reference ? pairs.policy_chosen / pairs.chosen_tokens
                                       : pairs.policy_chosen - pairs.reference_chosen);
  const torch::Tensor rejected =
      config.beta * (without_reference ? pairs.policy_rejected / pairs.rejected_tokens
                                       : pairs.policy_rejected - pairs.reference_rejected);
  const auto sum = [](const torch::Tensor& values) {
    return values.to(torch::kFloat64).sum().item<double>();
  };
  if (pairs.desirable.defined()) {
    return {{"loss", sum(losses)},
            {"rewards/chosen", sum(chosen)},
            {"rewards/rejected", sum(rejected)},
            {"logps/chosen", sum(pairs.policy_chosen)},
            {"logps/rejected", sum(pairs.policy_rejected)},
            {"logps/ref_chosen", sum(pairs.reference_chosen)},
            {"logps/ref_rejected", sum(pairs.reference_rejected)},
            {"tokens/chosen", sum(pairs.chosen_tokens)},
            {"tokens/rejected", sum(pairs.rejected_tokens)},
            {"count/chosen", sum(pairs.desirable)},
            {"count/rejected", sum(~pairs.desirable)}};
  }
  return {{"loss", sum(losses)},
          {"rewards/chosen", sum(chosen)},
          {"rewards/rejected", sum(rejected)},
          {"rewards/accuracies", sum(chosen > rejected)},
          {"rewards/margins", sum(chosen - rejected)},
          {"logps/chosen", sum(pairs.policy_chosen)},
          {"logps/rejected", sum(pairs.policy_rejected)},
          {"logps/ref_chosen", sum(pairs.reference_chosen)},
          {"logps/ref_rejected", sum(pairs.reference_rejected)},
          {"nll_loss", sum(mean_negative_log_prob(pairs))},
          {"tokens/chosen", sum(pairs.chosen_tokens)},
          {"tokens/rejected", sum(pairs.rejected_tokens)},
          {"length/chosen_longer", sum(pairs.chosen_tokens > pairs.rejected_tokens)}};
}

}  // namespace pocketvlm
