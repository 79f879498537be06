#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "trainer/stage_config.h"

namespace pocketvlm::test {

/// Folder of this test run; a death test's child process sees its parent's.
const std::string& test_folder();

/// A vocabulary of 400 pieces, learned once a process from texts about scenes.
const std::string& tiny_tokenizer_path();

/// Some 60,000 parameters, 56 x 56 pictures as 16 patches, 4 visual tokens.
ModelConfig tiny_model_config();
LoadedModel tiny_model(uint64_t seed);

/// A stage of few small steps on captions of scenes with one or two objects.
StageConfig tiny_stage(const std::string& name);
/// The same for the contrastive objective.
StageConfig tiny_contrastive_stage(const std::string& name);

/// Writes 60 conversations about pictures, every third of which (all: every one) has a good header and lacks half its
/// pixels; gives the source.
SourceConfig third_damaged_pictures(const std::string& folder, bool all = false);

/// Copies of all parameters by name.
std::map<std::string, torch::Tensor> copy_weights(const LoadedModel& model);
bool same_bits(const torch::Tensor& a, const torch::Tensor& b);

/// Lines of a JSON lines file.
std::vector<Json> read_lines(const std::string& path);

/// The text of the Error that `action` throws, empty when it throws none.
std::string error_of(const std::function<void()>& action);

}  // namespace pocketvlm::test
