#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "trainer/stage.h"

namespace pocketvlm {

/// vision_encoder, projector or language: the first word of a parameter's name.
std::string component_of(const std::string& name);

/// Hash of every parameter that is not among `trainable`, by name.
std::map<std::string, std::string> frozen_hashes(const torch::nn::Module& model, const std::set<std::string>& trainable);

/// One row a component, in registration order. Throws Error naming `stage` when a frozen tensor no longer has the hash of `before`.
std::vector<ComponentRow> freeze_table(const torch::nn::Module& model,
                                       const std::set<std::string>& trainable,
                                       const std::map<std::string, std::string>& before,
                                       const std::string& stage);

}  // namespace pocketvlm
