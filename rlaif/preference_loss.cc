#include "rlaif/preference_loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/relu.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

torch::Tensor pair_losses(const PairLogProbs& pairs, const PreferenceConfig& config) {
  const torch::Tensor chosen = pairs.policy_chosen - pairs.reference_chosen;
  const torch::Tensor rejected = pairs.policy_rejected - pairs.reference_rejected;
  if (config.loss == "sigmoid") return -at::log_sigmoid(config.beta * (chosen - rejected));
  if (config.loss == "hinge") return at::relu(1.0 - config.beta * (chosen - rejected));
  if (config.loss == "ipo") {
    PV_CHECK(config.beta > 0,
             "preference.beta is 0; the loss ipo divides by it: give a positive beta");
    return (chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens - 0.5 / config.beta)
        .square();
  }
  fail("preference.loss: unknown loss \"{}\"", config.loss);
}

torch::Tensor mean_negative_log_prob(const PairLogProbs& pairs) {
  return -pairs.policy_chosen / pairs.chosen_tokens;
}

}  // namespace

torch::Tensor preference_losses(const PairLogProbs& pairs, const PreferenceConfig& config) {
  torch::Tensor losses = pair_losses(pairs, config);
  if (config.sft_weight > 0) losses = losses + config.sft_weight * mean_negative_log_prob(pairs);
  return losses;
}

std::map<std::string, double> preference_metric_sums(const PairLogProbs& pairs,
                                                     const torch::Tensor& losses,
                                                     const PreferenceConfig& config) {
  const at::NoGradGuard no_grad;
  const torch::Tensor chosen = config.beta * (pairs.policy_chosen - pairs.reference_chosen);
  const torch::Tensor rejected = config.beta * (pairs.policy_rejected - pairs.reference_rejected);
  const auto sum = [](const torch::Tensor& values) {
    return values.to(torch::kFloat64).sum().item<double>();
  };
  return {{"loss", sum(losses)},
          {"rewards/chosen", sum(chosen)},
          {"rewards/rejected", sum(rejected)},
          {"rewards/accuracies", sum(chosen > rejected)},
          {"rewards/margins", sum(chosen - rejected)},
          {"logps/chosen", sum(pairs.policy_chosen)},
          {"logps/rejected", sum(pairs.policy_rejected)},
          {"nll_loss", sum(mean_negative_log_prob(pairs))},
          {"tokens/chosen", sum(pairs.chosen_tokens)},
          {"tokens/rejected", sum(pairs.rejected_tokens)}};
}

}  // namespace pocketvlm
