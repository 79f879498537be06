#include "tests/model/released/pickled_release.h"

#include <filesystem>

#include "base/files.h"

namespace pocketvlm {
namespace {

std::string storage_class(const std::string& dtype) {
  if (dtype == "F32") return "FloatStorage";
  if (dtype == "F16") return "HalfStorage";
  if (dtype == "BF16") return "BFloat16Storage";
  return "LongStorage";
}

}  // namespace

std::string pickled_weights(const OwnedTensors& tensors) {
  std::vector<std::pair<std::string, std::string>> items, entries;
  for (const auto& [name, tensor] : tensors) {
    const std::string key = std::to_string(items.size());
    std::vector<std::int64_t> strides(tensor.shape.size(), 1);
    std::int64_t count = 1;
    for (std::size_t i = tensor.shape.size(); i-- > 0; count *= tensor.shape[i]) strides[i] = count;
    items.emplace_back(name, pickled_tensor(storage_class(tensor.dtype), key, count, 0, tensor.shape, strides));
    entries.emplace_back("archive/data/" + key, tensor.bytes);
  }
  entries.insert(entries.begin(), {"archive/data.pkl", pickled_dictionary(items)});
  entries.emplace_back("archive/byteorder", "little");
  return zip_of(entries);
}

void pickle_release(const std::string& folder, const OwnedTensors& tensors, int shards) {
  namespace fs = std::filesystem;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".index.json")) fs::remove(entry.path());
  }
  if (shards == 1) return write_file_atomic(folder + "/pytorch_model.bin", pickled_weights(tensors));
  std::vector<OwnedTensors> parts(static_cast<std::size_t>(shards));
  Json map = Json::object();
  std::size_t next = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t part = next++ % parts.size();
    parts[part].emplace(name, tensor);
    map[name] = "pytorch_model-" + std::to_string(part) + ".bin";
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    write_file_atomic(folder + "/pytorch_model-" + std::to_string(i) + ".bin", pickled_weights(parts[i]));
  }
  write_json(folder + "/pytorch_model.bin.index.json", {{"metadata", Json::object()}, {"weight_map", map}});
}

}  // namespace pocketvlm
