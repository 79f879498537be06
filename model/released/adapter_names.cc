#include "model/released/adapter_names.h"

#include "base/error.h"
#include "model/name_patterns.h"

namespace pocketvlm {

AdapterNames::AdapterNames(const ModelConfig& config) {
  if (const auto released = released_form(config)) table_ = released_tensors(*released);
  for (const ReleasedTensor& row : table_) {
    for (const TensorPart& part : row.parts) by_part_[part.name] = &row;
  }
}

std::string AdapterNames::released_module(const std::string& ours) const {
  if (table_.empty()) return ours;
  const auto found = by_part_.find(ours + ".weight");
  PV_CHECK(found != by_part_.end() && found->second->parts.size() == 1,
           "{}: the released layout keeps this layer inside {}, so an adapter cannot hold its update; take it out of lora.targets, or "
           "use the merged checkpoint",
           ours,
           found == by_part_.end() ? "no tensor" : found->second->name);
  const std::string& name = found->second->name;
  return name.substr(0, name.rfind('.'));
}

std::int64_t count_lora_parameters(const ModelConfig& config, const LoraConfig& lora) {
  std::vector<std::string> modules;
  std::vector<std::int64_t> sizes;
  const AdapterNames names(config);
  for (const ReleasedTensor& row : names.table()) {
    for (const TensorPart& part : row.parts) {
      // Tables of positions, queries and pieces are two-dimensional, too, but no Linear's.
      const std::string module = part.name.substr(0, part.name.rfind('.'));
      const bool is_table = module.ends_with("embed_tokens") || !part.name.ends_with(".weight");
      if (part.shape.size() != 2 || is_table) continue;
      modules.push_back(module);
      sizes.push_back(part.shape[0] + part.shape[1]);
    }
  }
  PV_CHECK(!modules.empty(), "lora: no release holds this architecture, so its layers cannot be counted from the config alone");
  const std::vector<bool> chosen = match_names(modules, lora.targets, "lora.targets");
  std::int64_t count = 0;
  for (std::size_t i = 0; i < modules.size(); ++i) count += chosen[i] ? lora.rank * sizes[i] : 0;
  return count;
}

}  // namespace pocketvlm
