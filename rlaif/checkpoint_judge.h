#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/judge.h"

namespace pocketvlm {

/// Ids that can start "yes"/"Yes" and "no"/"No" as an answer under the judge's own template.
/// Throws Error when they cannot be told apart by their first token.
struct YesNoIds {
  std::vector<std::int32_t> yes, no;
};
YesNoIds yes_no_ids(const PromptEncoder& encoder);

/// A checkpoint of ours as judge: the picture is encoded once, all questions about it are segments
/// of packed forwards that share its visual rows (and, with share_prefix, the decoder's work on their
/// common beginning), and the first token's probabilities are the verdict: nothing is decoded.
class CheckpointJudge : public Judge {
 public:
  CheckpointJudge(const std::string& folder, const RlaifConfig& config);

  std::vector<Verdict> verdicts(const Image& image,
                                const std::vector<std::string>& questions) override;
  std::string name() const override { return folder_; }
  std::string identity() const override { return identity_; }

 private:
  std::string folder_, suffix_, identity_;
  LoadedModel judge_;
  torch::Dtype dtype_;
  bool share_prefix_;
  YesNoIds ids_;
};

/// log p of each candidate as the first token after each prompt, [prompts][candidates]; the prompts are about one
/// picture and share the decoder's work on what they begin with. Those after the first need an outline of it alone.
std::vector<std::vector<double>> shared_first_token_log_probs(
    VisionLanguageModel& model,
    const std::vector<EncodedChat>& prompts,
    const std::vector<std::int32_t>& candidates);

/// The judge that a config names: a server, or `checkpoint`, the folder that stands for its name.
std::unique_ptr<Judge> make_judge(const RlaifConfig& config, const std::string& checkpoint);

}  // namespace pocketvlm
