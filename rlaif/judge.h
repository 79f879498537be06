#pragma once

#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace pocketvlm {

/// How likely the judge's first word is yes or no; not renormalised (rlaifv.md section 1.2).
struct Verdict {
  double p_yes = 0;
  double p_no = 0;
  bool asked =
      true;  // false: the question is too long for the judge, and its claim counts as rejected
  bool accepted() const { return p_yes > p_no; }  // equality rejects
  double coverage() const {
    return p_yes + p_no;
  }  // near 1 when the judge answers yes/no questions at all
};

/// The role of the judge: says for each question about a picture whether the answer is yes.
class Judge {
 public:
  virtual ~Judge() = default;
  virtual std::vector<Verdict> verdicts(const Image& image,
                                        const std::vector<std::string>& questions) = 0;
  virtual std::string name() const = 0;      // for people
  virtual std::string identity() const = 0;  // changes when the judge would judge otherwise
};

/// Ids that can start "yes"/"Yes" and "no"/"No" as an answer under the judge's own template.
/// Throws Error when they cannot be told apart by their first token.
struct YesNoIds {
  std::vector<std::int32_t> yes, no;
};
YesNoIds yes_no_ids(const PromptEncoder& encoder);

/// A checkpoint of ours as judge: the picture is encoded once, all questions about it are segments
/// of one packed forward that share its visual rows, and the first token's probabilities are the
/// verdict: nothing is decoded.
class CheckpointJudge : public Judge {
 public:
  CheckpointJudge(const std::string& folder,
                  const std::string& compute_dtype,
                  const std::string& device);

  std::vector<Verdict> verdicts(const Image& image,
                                const std::vector<std::string>& questions) override;
  std::string name() const override { return folder_; }
  std::string identity() const override { return identity_; }

 private:
  std::string folder_;
  LoadedModel judge_;
  torch::Dtype dtype_;
  std::string identity_;
  YesNoIds ids_;
};

}  // namespace pocketvlm
