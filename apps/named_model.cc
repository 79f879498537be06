#include "apps/named_model.h"

#include <filesystem>

#include "base/json.h"

namespace pocketvlm {

ModelConfig named_model(const std::string& model) {
  if (!std::filesystem::is_directory(model)) return load_model_config(model);
  const std::string path = (std::filesystem::path(model) / "config.json").string();
  const Json json = read_json(path);
  PV_CHECK(json.is_object() && json.contains("model"), "{}: no \"model\"; name a checkpoint folder, a preset or a config file", path);
  return read_config<ModelConfig>(json["model"], path + ": model");
}

}  // namespace pocketvlm
