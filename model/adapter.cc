#include "model/adapter.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "model/released/adapter_names.h"
#include "model/released/weight_files.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr const char* kProjector = "projector.";

std::span<const std::byte> bytes_of(const torch::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

TensorToWrite to_write(const std::string& name, const torch::Tensor& tensor) {
  const torch::Tensor kept = tensor.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  return {name, "F32", kept.sizes().vec(), [kept] { return bytes_of(kept); }};
}

/// The projector's tensors under the release's names; empty unless all of them learned.
std::vector<TensorToWrite> whole_projector(torch::nn::Module& model, const AdapterNames& names) {
  std::map<std::string, torch::Tensor> parameters;
  for (const auto& item : model.named_parameters()) {
    if (!item.key().starts_with(kProjector)) continue;
    if (!item.value().requires_grad()) return {};
    parameters[item.key()] = item.value();
  }
  std::vector<TensorToWrite> tensors;
  for (const ReleasedTensor& row : names.table()) {
    std::vector<torch::Tensor> parts;
    for (const TensorPart& part : row.parts) {
      const auto found = parameters.find(part.name);
      if (found != parameters.end()) parts.push_back(found->second.detach());
    }
    if (parts.empty() || parts.size() != row.parts.size()) continue;
    tensors.push_back(to_write(kAdapterPrefix + row.name, torch::cat(parts).view(row.shape)));
  }
  if (!names.table().empty()) return tensors;
  for (const auto& [name, tensor] : parameters) tensors.push_back(to_write(kAdapterPrefix + name, tensor));
  return tensors;
}

/// The module of the release that all these names begin with: "resampler" of base_model.model.resampler.query.
std::string module_to_save(const std::vector<TensorToWrite>& tensors) {
  const std::string name = tensors.front().name.substr(std::string_view(kAdapterPrefix).size());
  constexpr std::string_view kMobileProjector = "model.mm_projector.";
  if (name.starts_with(kMobileProjector)) return "mm_projector";
  return name.substr(0, name.find('.'));
}

struct Update {
  TensorView a, b;  // [rank, in], [out, rank]
};

/// What an adapter folder says, checked.
class Adapter {
 public:
  explicit Adapter(const std::string& folder)
      : config_path_((fs::path(folder) / kConfigFile).string()), weights_((fs::path(folder) / kWeightsFile).string()) {
    const Json config = read_json(config_path_);
    PV_CHECK(config.is_object() && config.contains("peft_type") && config["peft_type"] == "LORA",
             "{}: peft_type is {}; only LORA adapters can be merged",
             config_path_,
             config.is_object() && config.contains("peft_type") ? config["peft_type"].dump() : "missing");
    for (const char* key : {"rank_pattern", "alpha_pattern", "use_dora", "fan_in_fan_out", "lora_bias"}) {
      const bool plain = !config.contains(key) || config[key].is_null() || config[key] == false || config[key] == Json::object();
      PV_CHECK(plain, "{}: {} is {}, which cannot be merged here; merge it with PEFT", config_path_, key, config.value(key, Json()).dump());
    }
    PV_CHECK(!config.contains("bias") || config["bias"] == "none", "{}: bias is {}; only \"none\" can be merged", config_path_, config["bias"].dump());
    const double alpha = number(config, "lora_alpha");
    rank_ = static_cast<std::int64_t>(number(config, "r"));
    PV_CHECK(rank_ >= 1, "{}: r is {}; it must be at least 1", config_path_, rank_);
    const bool root = config.contains("use_rslora") && config["use_rslora"] == true;
    scale_ = alpha / (root ? std::sqrt(static_cast<double>(rank_)) : static_cast<double>(rank_));
    for (const auto& [name, tensor] : weights_.tensors()) add(name, tensor);
    for (const auto& [module, update] : updates_) check(module, update);
  }

  const std::map<std::string, Update>& updates() const { return updates_; }  // by module of the release
  const std::map<std::string, TensorView>& whole() const { return whole_; }  // by tensor of the release
  double scale() const { return scale_; }
  const std::string& path() const { return weights_.path(); }

 private:
  double number(const Json& config, const char* key) const {
    PV_CHECK(config.contains(key) && config[key].is_number(), "{}: {} is not a number", config_path_, key);
    return config[key].get<double>();
  }

  void add(const std::string& name, const TensorView& tensor) {
    PV_CHECK(name.starts_with(kAdapterPrefix), "{}: tensor {} does not begin with {}", path(), name, kAdapterPrefix);
    const std::string rest = name.substr(std::string_view(kAdapterPrefix).size());
    constexpr std::string_view kA = ".lora_A.weight", kB = ".lora_B.weight";
    check_finite(tensor, path() + ": tensor " + name);
    if (rest.ends_with(kA)) updates_[rest.substr(0, rest.size() - kA.size())].a = tensor;
    else if (rest.ends_with(kB)) updates_[rest.substr(0, rest.size() - kB.size())].b = tensor;
    else whole_[rest] = tensor;
  }

  void check(const std::string& module, const Update& update) const {
    const auto fits = [&](const TensorView& factor, std::size_t side) {
      return factor.shape.size() == 2 && factor.shape[side] == rank_;
    };
    PV_CHECK(fits(update.a, 0) && fits(update.b, 1),
             "{}: {} needs lora_A [{}, in] and lora_B [out, {}], the rank of {}",
             path(),
             module,
             rank_,
             rank_,
             config_path_);
  }

  std::string config_path_;
  SafetensorsFile weights_;
  std::int64_t rank_ = 0;
  double scale_ = 0;
  std::map<std::string, Update> updates_;
  std::map<std::string, TensorView> whole_;
};

torch::Dtype dtype_of(const std::string& name, const std::string& where) {
  if (name == "F32") return torch::kFloat32;
  if (name == "F16") return torch::kFloat16;
  if (name == "BF16") return torch::kBFloat16;
  fail("{}: has dtype {}; an update can be folded into F32, F16 and BF16", where, name);
}

/// The tensor over mapped bytes; the safetensors format promises no alignment, so they are copied.
torch::Tensor to_tensor(const TensorView& view, const std::string& where) {
  torch::Tensor tensor = torch::empty(view.shape, dtype_of(view.dtype, where));
  PV_CHECK(tensor.nbytes() == view.bytes.size(), "{}: its bytes do not fit its shape", where);
  std::copy(view.bytes.begin(), view.bytes.end(), static_cast<std::byte*>(tensor.data_ptr()));
  return tensor;
}

/// Which of the folder's tensors stand for each of the release's; the identity in a released folder.
class Target {
 public:
  Target(const std::string& folder, const std::map<std::string, TensorView>& tensors) : tensors_(tensors) {
    const fs::path path = fs::path(folder) / "config.json";
    PV_CHECK(fs::exists(path), "{}: is not a checkpoint folder: config.json is missing", folder);
    const Json json = read_json(path.string());
    if (!json.is_object() || !json.contains("format") || json["format"] != "pocketvlm") return;
    PV_CHECK(json.contains("model"), "{}: no \"model\"", path.string());
    const AdapterNames names(read_config<ModelConfig>(json["model"], path.string() + ": model"));
    for (const ReleasedTensor& row : names.table()) {
      parts_[row.name] = row.parts;
    }
  }

  /// Throws Error when the folder has no such tensor.
  std::vector<TensorPart> parts(const std::string& released, const std::string& adapter) const {
    std::vector<TensorPart> parts;
    if (const auto found = parts_.find(released); found != parts_.end()) parts = found->second;
    else parts.push_back({released, {}});
    for (const TensorPart& part : parts) {
      PV_CHECK(tensors_.count(part.name) != 0, "{}: is for {}, which the checkpoint has no tensor for; it belongs to another model",
               adapter, released);
    }
    return parts;
  }

 private:
  const std::map<std::string, TensorView>& tensors_;
  std::map<std::string, std::vector<TensorPart>> parts_;
};

/// All but the weights: config, vocabulary, what a release had beside them.
void copy_rest(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") || name.ends_with(".bin")) continue;
    fs::copy(entry.path(), to / name, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  }
}

}  // namespace

void save_adapter(torch::nn::Module& model, const ModelConfig& config, const LoraConfig& lora, const std::string& base, const std::string& folder) {
  const AdapterNames names(config);
  std::vector<TensorToWrite> tensors;
  Json targets = Json::array();
  for (const auto& item : model.named_modules()) {
    const auto* linear = item.value()->as<LinearImpl>();
    if (linear == nullptr || !linear->lora_a.defined()) continue;
    const std::string module = names.released_module(item.key());
    targets.push_back(module);
    tensors.push_back(to_write(kAdapterPrefix + module + ".lora_A.weight", linear->lora_a));
    tensors.push_back(to_write(kAdapterPrefix + module + ".lora_B.weight", linear->lora_b));
  }
  PV_CHECK(!targets.empty(), "{}: the model has no low-rank updates to save", folder);
  Json saved = nullptr;
  if (std::vector<TensorToWrite> whole = whole_projector(model, names); !whole.empty()) {
    saved = Json::array({module_to_save(whole)});
    for (TensorToWrite& tensor : whole) tensors.push_back(std::move(tensor));
  }
  NewFolder written(folder, kConfigFile);
  const fs::path root(written.path());
  write_safetensors((root / kWeightsFile).string(), tensors, {{"format", "pt"}});
  write_json((root / kConfigFile).string(),
             {{"peft_type", "LORA"},
              {"task_type", nullptr},  // any: PEFT then wraps the released class as it is
              {"base_model_name_or_path", base},
              {"r", lora.rank},
              {"lora_alpha", lora.alpha},
              {"lora_dropout", lora.dropout},
              {"bias", "none"},
              {"fan_in_fan_out", false},
              {"inference_mode", true},
              {"modules_to_save", saved},
              {"target_modules", targets}});
  written.commit();
}

MergedAdapter merge_adapter(const std::string& checkpoint, const std::string& adapter_folder, const std::string& out) {
  PV_CHECK(fs::is_directory(checkpoint), "{}: no such folder", checkpoint);
  const Adapter adapter(adapter_folder);
  const ShardMap shards(checkpoint);
  const WeightFolder weights(checkpoint);
  const Target target(checkpoint, weights.tensors());

  std::map<std::string, const Update*> updates;  // by tensor of the checkpoint
  for (const auto& [module, update] : adapter.updates()) {
    const std::vector<TensorPart> parts = target.parts(module + ".weight", adapter.path());
    PV_CHECK(parts.size() == 1, "{}: {} is several layers of ours in one; merge it into the released folder", adapter.path(), module);
    const TensorView& weight = weights.tensors().at(parts.front().name);
    const std::vector<std::int64_t> wanted = {update.b.shape[0], update.a.shape[1]};
    PV_CHECK(weight.shape == wanted,
             "{}: the update of {} has shape [{}], but {} has [{}]; it belongs to another model",
             adapter.path(),
             module,
             fmt::join(wanted, ", "),
             shards.place(parts.front().name),
             fmt::join(weight.shape, ", "));
    updates[parts.front().name] = &update;
  }
  std::map<std::string, torch::Tensor> whole;  // by tensor of the checkpoint
  for (const auto& [name, view] : adapter.whole()) {
    const torch::Tensor rows = to_tensor(view, adapter.path() + ": tensor " + name).flatten();
    std::int64_t offset = 0;
    for (const TensorPart& part : target.parts(name, adapter.path())) {
      const TensorView& old = weights.tensors().at(part.name);
      const std::int64_t count = static_cast<std::int64_t>(old.bytes.size() / dtype_bytes(old.dtype));
      PV_CHECK(offset + count <= rows.numel(), "{}: tensor {} is smaller than {}", adapter.path(), name, shards.place(part.name));
      whole[part.name] = rows.slice(0, offset, offset + count);
      offset += count;
    }
    PV_CHECK(offset == rows.numel(), "{}: tensor {} has {} elements, the checkpoint {} there", adapter.path(), name, rows.numel(), offset);
  }

  const auto pages = std::make_shared<PageWindow>();
  const auto merged = std::make_shared<torch::Tensor>();  // one at a time
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, view] : weights.tensors()) {
    const auto update = updates.find(name);
    const auto other = whole.find(name);
    const std::string where = shards.place(name);
    const auto read = [&, view = view, where, update, other] {
      pages->move_to(view.bytes);
      if (update == updates.end() && other == whole.end()) return view.bytes;
      const torch::NoGradGuard no_grad;
      const torch::Dtype dtype = dtype_of(view.dtype, where);
      if (other != whole.end()) {
        *merged = other->second.to(dtype).contiguous();
      } else {
        torch::Tensor sum = to_tensor(view, where).to(torch::kFloat32);
        const torch::Tensor a = to_tensor(update->second->a, where).to(torch::kFloat32);
        const torch::Tensor b = to_tensor(update->second->b, where).to(torch::kFloat32);
        *merged = sum.add_(torch::mm(b, a), adapter.scale()).to(dtype);
      }
      return bytes_of(*merged);
    };
    tensors.push_back({name, view.dtype, view.shape, read});
  }
  NewFolder written(out, "");
  copy_rest(checkpoint, written.path());
  write_weights(written.path(), tensors);
  written.commit();
  return {static_cast<std::int64_t>(updates.size()), static_cast<std::int64_t>(whole.size())};
}

}  // namespace pocketvlm
