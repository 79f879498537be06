#pragma once

#include <torch/types.h>

#include <map>
#include <string>

#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// Log-probs of the answers under policy and reference, summed over their tokens (weighted, where tokens have
/// weights), and how many tokens they are. All [pairs] float32.
struct PairLogProbs {
  torch::Tensor policy_chosen, policy_rejected;
  torch::Tensor reference_chosen, reference_rejected;
  torch::Tensor chosen_tokens, rejected_tokens;
  torch::Tensor plain_chosen = {};  // the policy's sum for the chosen answer with all weights 1; undefined: policy_chosen
  torch::Tensor desirable = {};  // single answers, [pairs] bool: which side is there; the other's values are 0. Undefined: pairs
  double kl = 0;           // kto: the step's estimate of KL(policy || reference), not negative
  double step_tokens = 0;  // sft: tokens of all chosen answers of the step; 0: those of these pairs
  double step_pairs = 0;   // pairs of the step; 0: these
};

/// Loss of each pair, [pairs] float32; a step's loss is their mean over its pairs. With d_w, d_l the log-prob under
/// the policy minus that under the reference of the chosen and the rejected answer, n_w and n_l their tokens,
/// D = d_w - d_l, b = beta, e = label_smoothing, ls(x) = -log sigmoid(x) (rlaifv.md section 2):
///   sigmoid       ls(b D)                                           DPO; ln 2 when policy = reference
///   sigmoid_norm  ls(b (d_w / n_w - d_l / n_l))
///   cdpo          (1 - e) ls(b D) + e ls(-b D)
///   robust        [(1 - e) ls(b D) - e ls(-b D)] / (1 - 2 e)
///   ipo, ipo_sum  (x - 1 / (2 b))^2 with x = d_w / n_w - d_l / n_l, or x = D
///   hinge         max(0, 1 - b D)
///   simpo         ls(b (mean log-prob of chosen - of rejected) - gamma)  without a reference
///   bco_pair      ls(b d_w) + ls(-b d_l)
///   kto           half of w_D (1 - sigmoid(b (d_w - kl))) + w_U (1 - sigmoid(b (kl - d_l))); of a single answer its own term
///   sft           NLL of the chosen answers, mean over the tokens of the step (in `mix` alone)
/// plus sft_weight times the chosen answer's mean-token NLL (RPO style).
torch::Tensor preference_losses(const PairLogProbs& pairs, const PreferenceConfig& config);

/// Sums over the pairs of what TRL logs as means: loss, rewards/chosen, rewards/rejected,
/// rewards/accuracies, rewards/margins, logps/chosen, logps/rejected; and of logps/ref_chosen,
/// logps/ref_rejected, nll_loss, tokens/chosen, tokens/rejected, and length/chosen_longer (pairs whose chosen answer
/// has more tokens: the accuracy that length alone would reach). Rewards of simpo are b times mean log-probs.
/// Of single answers: loss, and the rewards, logps and tokens of either kind, with count/chosen and count/rejected to divide them by.
/// `losses`: of preference_losses.
std::map<std::string, double> preference_metric_sums(const PairLogProbs& pairs,
                                                     const torch::Tensor& losses,
                                                     const PreferenceConfig& config);

}  // namespace pocketvlm
