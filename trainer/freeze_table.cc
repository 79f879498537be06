#include "trainer/freeze_table.h"

#include "base/error.h"
#include "model/checkpoint.h"

namespace pocketvlm {

std::string component_of(const std::string& name) { return name.substr(0, name.find('.')); }

std::map<std::string, std::string> frozen_hashes(const torch::nn::Module& model, const std::set<std::string>& trainable) {
  std::map<std::string, std::string> hashes;
  for (const auto& item : model.named_parameters()) {
    if (trainable.count(item.key()) == 0) hashes[item.key()] = weights_hash(model, {item.key()});
  }
  return hashes;
}

std::vector<ComponentRow> freeze_table(const torch::nn::Module& model,
                                       const std::set<std::string>& trainable,
                                       const std::map<std::string, std::string>& before,
                                       const std::string& stage) {
  for (const auto& [name, hash] : frozen_hashes(model, trainable)) {
    PV_CHECK(before.at(name) == hash,
             "stage {}: the frozen tensor {} changed during the stage; its checkpoint is not written",
             stage,
             name);
  }
  std::vector<ComponentRow> rows;
  for (const auto& item : model.named_parameters()) {
    const std::string component = component_of(item.key());
    if (rows.empty() || rows.back().component != component) {
      rows.emplace_back();
      rows.back().component = component;
    }
    ComponentRow& row = rows.back();
    row.tensors += 1;
    row.parameters += item.value().numel();
    if (trainable.count(item.key()) == 0) continue;
    row.trainable_tensors += 1;
    row.trainable_parameters += item.value().numel();
  }
  return rows;
}

}  // namespace pocketvlm
