#pragma once

#include <torch/types.h>

#include <map>
#include <string>

#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// Summed log-probs of the answers' tokens under policy and reference, and how many tokens they
/// are. All [pairs] float32.
struct PairLogProbs {
  torch::Tensor policy_chosen, policy_rejected;
  torch::Tensor reference_chosen, reference_rejected;
  torch::Tensor chosen_tokens, rejected_tokens;
};

/// Loss of each pair, [pairs] float32. With d_w, d_l = log-prob under the policy minus under the
/// reference of the chosen and the rejected answer (rlaifv.md section 2):
///   sigmoid   -log sigmoid(beta (d_w - d_l))                              DPO; ln 2 when policy =
///   reference ipo       (d_w / n_w - d_l / n_l - 1 / (2 beta))^2                    means over
///   tokens, as its authors confirmed hinge     max(0, 1 - beta (d_w - d_l))
/// plus sft_weight times the chosen answer's mean-token negative log-prob (RPO style).
torch::Tensor preference_losses(const PairLogProbs& pairs, const PreferenceConfig& config);

/// Sums over the pairs of what TRL logs as means: loss, rewards/chosen, rewards/rejected,
/// rewards/accuracies, rewards/margins, logps/chosen, logps/rejected; and of tokens/chosen,
/// tokens/rejected, nll_loss. `losses`: of preference_losses.
std::map<std::string, double> preference_metric_sums(const PairLogProbs& pairs,
                                                     const torch::Tensor& losses,
                                                     const PreferenceConfig& config);

}  // namespace pocketvlm
