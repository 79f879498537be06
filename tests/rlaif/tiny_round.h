#pragma once

#include <string>

#include "rlaif/pairs.h"
#include "rlaif/preference_training.h"
#include "rlaif/rlaif_config.h"
#include "tiny_stage.h"

namespace pocketvlm::test {

/// Scenes of one or two objects of eight classes on 56 x 56 pixels.
ScenesConfig tiny_scenes(const std::string& task);

/// Checkpoint folders of a policy that writes "There is a ..." and of a judge that answers yes or
/// no; trained once a process, for seconds: their form is right, what they say is a guess.
const std::string& tiny_policy_folder();
const std::string& tiny_judge_folder();

RlaifConfig tiny_round();

/// Pairs about the first pictures of tiny_scenes("detailed").
std::vector<PreferencePair> tiny_pairs(int count);
PictureReader tiny_pictures();

}  // namespace pocketvlm::test
