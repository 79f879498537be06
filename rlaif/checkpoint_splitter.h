#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "rlaif/round_files.h"
#include "rlaif/splitter.h"

namespace pocketvlm {

/// A checkpoint of ours as splitter: its language model is asked by `split_by_model`, without a picture, and answers greedily.
class CheckpointSplitter : public Splitter {
 public:
  CheckpointSplitter(const std::string& folder, const RlaifConfig& config);
  std::vector<SplitResult> split(const std::vector<SplitTask>& tasks) override;
  std::string identity() const override { return identity_; }

 private:
  std::vector<SplitOutput> answer(const std::vector<std::string>& requests);

  LoadedModel model_;
  torch::Dtype dtype_;
  SplitPrompts prompts_;
  std::string identity_;
};

/// The splitter that a config names; `checkpoint` is the folder that stands for its name where it is a checkpoint.
std::unique_ptr<Splitter> make_splitter(const RlaifConfig& config, const std::string& checkpoint);

/// Claims of all answers, prompt by prompt; appended to `log` by groups of `batch` prompts, groups that are there already
/// are not split again. Ranks split a group each. Throws Error when a server refuses most answers.
std::vector<PromptClaims> split_answers(const RlaifConfig& config,
                                        Splitter& splitter,
                                        const std::vector<PromptAnswers>& prompts,
                                        JsonlLog& log,
                                        const RoundObserver& observer = {},
                                        const WorkingRanks& ranks = {});

}  // namespace pocketvlm
