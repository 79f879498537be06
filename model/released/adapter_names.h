#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/lora_config.h"
#include "model/released/released_tensors.h"

/// How PEFT names low-rank updates of a model.
namespace pocketvlm {

/// PEFT wraps the model it adapts: every name begins so.
constexpr const char* kAdapterPrefix = "base_model.model.";

/// The names of one architecture, ours and the release's. Where no release holds the architecture, adapters use our names.
class AdapterNames {
 public:
  explicit AdapterNames(const ModelConfig& config);

  /// The release's module of one of our Linears ("language.layers.0.self_attn.q_proj"). Throws Error when the release fuses it with
  /// others (timm's query-key-value): no update of its own can stand there.
  std::string released_module(const std::string& ours) const;

  /// The table of the release; empty when there is none.
  const std::vector<ReleasedTensor>& table() const { return table_; }

 private:
  std::vector<ReleasedTensor> table_;
  std::map<std::string, const ReleasedTensor*> by_part_;  // our tensor name -> row
};

/// Parameters that updates would add, from the configs alone. Throws Error when a pattern matches nothing, or no release holds the
/// architecture.
std::int64_t count_lora_parameters(const ModelConfig& config, const LoraConfig& lora);

}  // namespace pocketvlm
