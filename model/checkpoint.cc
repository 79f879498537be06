#include "model/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "model/name_patterns.h"
#include "model/released/weight_files.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "pocketvlm";

struct CheckpointConfig {
  std::string format;
  ModelConfig model;

  void visit_fields(auto&& field) {
    field("format", format, "marks a checkpoint of this program", required(one_of({kFormat})));
    field("model", model, "the architecture", required());
  }
};

std::vector<int64_t> shape_of(const torch::Tensor& tensor) { return tensor.sizes().vec(); }

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

torch::Dtype dtype_of(const std::string& name, const std::string& where) {
  if (name == "F32") return torch::kFloat32;
  if (name == "BF16") return torch::kBFloat16;
  if (name == "F16") return torch::kFloat16;
  fail("{}: dtype {} cannot be a weight; F32, BF16 and F16 can", where, name);
}

/// At most ten names, so that a wholly foreign file gives a readable error.
std::string listed(const std::vector<std::string>& names) {
  std::vector<std::string> shown(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(10, names.size())));
  return fmt::format("{}{}",
                     fmt::join(shown, ", "),
                     names.size() > 10 ? fmt::format(" and {} more", names.size() - 10) : "");
}

void sync_folder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

/// Puts the finished folder `from` in the place of `to`: at every moment `to` is the old one or the new one.
void replace_folder(const fs::path& from, const fs::path& to) {
  const auto give_up = [&](const char* what) {
    fail("{}: cannot {} the checkpoint folder: {}; the new one is complete in {}",
         to.string(),
         what,
         std::strerror(errno),
         from.string());
  };
  if (!fs::exists(to)) {
    if (rename(from.c_str(), to.c_str()) != 0) give_up("create");
  } else if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(from);
  } else {
    // A file system without exchange: the old folder steps aside first.
    const fs::path old = to.string() + ".old";
    fs::remove_all(old);
    if (rename(to.c_str(), old.c_str()) != 0) give_up("replace");
    if (rename(from.c_str(), to.c_str()) != 0) give_up("replace");
    fs::remove_all(old);
  }
  sync_folder(to.has_parent_path() ? to.parent_path() : fs::path("."));
}

/// NaN and infinity are looked for in stretches: the flags of a whole embedding would take half its memory again.
void check_loaded(const torch::Tensor& mapped, const std::string& where) {
  constexpr int64_t kStretch = 1 << 22;
  for (const torch::Tensor& stretch : mapped.flatten().split(kStretch)) {
    PV_CHECK(torch::isfinite(stretch).all().item<bool>(),
             "{}: holds NaN or infinity; the checkpoint is damaged or the run that wrote it diverged",
             where);
  }
}

/// Vectors and position tables are added to float32 values by kernels that read float32.
bool is_matrix(const std::string& name, const std::vector<int64_t>& shape) {
  return shape.size() > 1 && !name.ends_with("position_embedding");
}

/// Only memory that LibTorch did not allocate has no allocator: load_weights' views of the file.
bool is_mapped(const torch::Tensor& parameter) { return !is_placeholder(parameter) && parameter.storage().allocator() == nullptr; }

/// Gives one tensor of a folder to a parameter of the same shape.
class WeightLoader {
 public:
  WeightLoader(const std::string& folder, torch::Dtype held, const std::function<bool(const std::string&)>& stays_mapped)
      : file_(std::make_shared<SafetensorsFolder>(folder)), held_(held), stays_mapped_(stays_mapped) {}

  const std::map<std::string, TensorView>& tensors() const { return file_->tensors(); }

  void load(const std::string& name, const std::string& where, torch::Tensor& parameter) {
    const TensorView& view = tensors().at(name);
    const torch::Dtype stored = dtype_of(view.dtype, where);
    const torch::Dtype wanted = held_ == torch::kBFloat16 && is_matrix(name, view.shape) ? torch::kBFloat16 : torch::kFloat32;
    // The parameter keeps the mapped file alive.
    const torch::Tensor mapped = torch::from_blob(const_cast<std::byte*>(view.bytes.data()),
                                                  view.shape,
                                                  [file = file_](void*) {},
                                                  torch::TensorOptions().dtype(stored));
    pages_.move_to(view.bytes);
    check_loaded(mapped, where);
    const bool stays = stays_mapped_ && stays_mapped_(name);
    if (!is_placeholder(parameter) && !is_mapped(parameter)) {
      TORCH_INTERNAL_ASSERT(parameter.scalar_type() == torch::kFloat32 && !stays);
      parameter.copy_(mapped);
    } else if (stays || (wanted == torch::kBFloat16 && stored == wanted)) {
      parameter.set_data(mapped);
    } else {
      parameter.set_data(mapped.to(wanted, /*non_blocking=*/false, /*copy=*/true));
    }
    if (held_ != torch::kFloat32) parameter.set_requires_grad(false);
  }

 private:
  std::shared_ptr<SafetensorsFolder> file_;
  torch::Dtype held_;
  const std::function<bool(const std::string&)>& stays_mapped_;
  PageWindow pages_;  // memory never holds the file beside the copies of it
};

uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

/// May be called for one run of bytes after another if all but the last are whole words.
uint64_t mix_words(uint64_t hash, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, 8);
    hash = mix(hash, word);
  }
  return hash;
}

uint64_t mix_bytes(uint64_t hash, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  hash = mix_words(hash, data, size);
  std::size_t i = size / 8 * 8;
  uint64_t rest = size - i;
  for (; i < size; ++i) rest = (rest << 8) | bytes[i];
  return mix(hash, rest);
}

/// Hashes tensors of any float dtype as float32, through one buffer: copies of whole tensors would leave holes in the heap.
class TensorHash {
 public:
  uint64_t mix_tensor(uint64_t hash, const torch::Tensor& tensor) {
    const torch::Tensor row = tensor.detach().to(torch::kCPU).contiguous().view({-1});
    if (row.scalar_type() == torch::kFloat32) return mix_bytes(hash, row.data_ptr(), row.nbytes());
    const torch::NoGradGuard no_grad;
    if (!buffer_.defined()) buffer_ = torch::empty({kStretch}, torch::kFloat32);
    for (int64_t begin = 0;; begin += kStretch) {
      const int64_t count = std::min(kStretch, row.numel() - begin);
      const torch::Tensor stretch = buffer_.narrow(0, 0, count).copy_(row.narrow(0, begin, count));
      if (begin + count == row.numel()) return mix_bytes(hash, stretch.data_ptr(), stretch.nbytes());
      hash = mix_words(hash, stretch.data_ptr(), stretch.nbytes());
    }
  }

 private:
  static constexpr int64_t kStretch = 1 << 20;  // numbers, whole words of bytes
  torch::Tensor buffer_;
};

/// Every tensor of a checkpoint, in the order of the modules.
std::vector<std::pair<std::string, torch::Tensor>> parameters_and_buffers(const torch::nn::Module& model) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : model.named_parameters()) tensors.emplace_back(item.key(), item.value());
  for (const auto& item : model.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

}  // namespace

void save_model(const VisionLanguageModel& model, const std::string& tokenizer_path, const std::string& folder) {
  const fs::path target = fs::path(folder).lexically_normal();
  const fs::path plain = target.has_filename() ? target : target.parent_path();
  const fs::path temporary = plain.string() + ".tmp";
  fs::remove_all(temporary);
  make_folders(temporary.string());

  write_checkpoint_config(model->config(), temporary.string());
  std::vector<TensorToWrite> tensors;
  for (const auto& item : parameters_and_buffers(*model)) {
    const torch::Tensor parameter = item.second.detach();
    auto kept = std::make_shared<torch::Tensor>();  // alive while its bytes are written
    tensors.push_back({item.first, "F32", shape_of(parameter), [parameter, kept] {
                         *kept = parameter.to(torch::kCPU, torch::kFloat32).contiguous();
                         return std::span(static_cast<const std::byte*>(kept->data_ptr()), kept->nbytes());
                       }});
  }
  write_safetensors((temporary / "model.safetensors").string(), tensors, {{"format", "pt"}});
  write_file_atomic((temporary / "tokenizer.model").string(), read_file(tokenizer_path));
  replace_folder(temporary, plain);
}

ModelConfig load_checkpoint_config(const std::string& folder) {
  const std::string path = (fs::path(folder) / "config.json").string();
  PV_CHECK(fs::is_directory(folder), "{}: no such checkpoint folder", folder);
  PV_CHECK(fs::exists(path), "{}: not a checkpoint folder: config.json is missing", folder);
  return load_config<CheckpointConfig>(path).model;
}

void write_checkpoint_config(const ModelConfig& config, const std::string& folder) {
  CheckpointConfig written;
  written.format = kFormat;
  written.model = config;
  write_json((fs::path(folder) / "config.json").string(), config_to_json(written));
}

void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where) {
  PV_CHECK(tokenizer.size() <= config.language.vocab,
           "{}: the tokenizer has {} pieces but language.vocab is {}; they belong to different models",
           where,
           tokenizer.size(),
           config.language.vocab);
  const PromptEncoder needed_pieces(tokenizer, config.prompt, config.image);
}

void load_weights(const std::string& folder,
                  torch::nn::Module& model,
                  torch::Dtype held,
                  const std::function<bool(const std::string&)>& stays_mapped) {
  PV_CHECK(fs::is_directory(folder), "{}: no such checkpoint folder", folder);
  WeightLoader file(folder, held, stays_mapped);
  const auto buffers = model.named_buffers();
  auto wanted = parameters_and_buffers(model);
  // Buffers follow from the config; a file that does not hold them leaves them as they are.
  std::erase_if(wanted, [&](const auto& item) { return buffers.contains(item.first) && file.tensors().count(item.first) == 0; });
  std::set<std::string> known;
  std::vector<std::string> missing, unexpected, misshapen;
  for (const auto& [name, tensor] : wanted) {
    known.insert(name);
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end()) {
      missing.push_back(name);
    } else if (found->second.shape != shape_of(tensor)) {
      misshapen.push_back(fmt::format("{} {} instead of {}", name, shape_text(found->second.shape), shape_text(shape_of(tensor))));
    }
  }
  for (const auto& [name, view] : file.tensors()) {
    if (known.count(name) == 0) unexpected.push_back(name);
  }
  std::string problems;
  if (!missing.empty()) problems += fmt::format("; missing tensors: {}", listed(missing));
  if (!misshapen.empty()) problems += fmt::format("; wrong shapes: {}", listed(misshapen));
  if (!unexpected.empty()) problems += fmt::format("; unexpected tensors: {}", listed(unexpected));
  PV_CHECK(problems.empty(),
           "{}: the weights do not fit the model{}; load it with the config it was saved with",
           folder,
           problems);
  torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : wanted) file.load(name, fmt::format("{}: tensor {}", folder, name), tensor);
}

void release_mapped_weights(const torch::nn::Module& module) {
  PageWindow pages;
  for (const torch::Tensor& parameter : module.parameters()) {
    if (!is_mapped(parameter)) continue;
    pages.move_to({static_cast<const std::byte*>(parameter.data_ptr()), parameter.nbytes()});
    pages.move_to({});
  }
}

torch::Dtype stored_dtype(const std::string& folder) {
  const SafetensorsFolder file(folder);
  for (const auto& [name, view] : file.tensors()) {
    if (is_matrix(name, view.shape) && view.dtype != "BF16") return torch::kFloat32;
  }
  return torch::kBFloat16;
}

LoadedModel load_model(const std::string& folder, torch::Dtype held, const std::function<bool(const std::string&)>& stays_mapped) {
  LoadedModel loaded;
  loaded.config = load_checkpoint_config(folder);
  loaded.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(folder));
  check_tokenizer(*loaded.tokenizer, loaded.config, folder);
  loaded.encoder = std::make_unique<PromptEncoder>(*loaded.tokenizer, loaded.config.prompt, loaded.config.image);
  loaded.model = VisionLanguageModel(loaded.config);
  load_weights(folder, *loaded.model, held, stays_mapped);
  return loaded;
}

std::string weights_hash(const torch::nn::Module& model, const std::vector<std::string>& patterns) {
  const auto parameters = model.named_parameters();
  std::map<std::string, torch::Tensor> sorted;  // registration order is no part of the content
  std::vector<std::string> names;
  for (const auto& item : parameters) names.push_back(item.key());
  const std::vector<bool> chosen = match_names(names, patterns, "weights hash");
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (chosen[i]) sorted[names[i]] = parameters[names[i]];
  }
  uint64_t hash = 0;
  TensorHash tensors;
  PageWindow pages;
  for (const auto& [name, parameter] : sorted) {
    hash = mix_bytes(hash, name.data(), name.size());
    for (const int64_t size : parameter.sizes()) hash = mix(hash, static_cast<uint64_t>(size));
    if (is_mapped(parameter)) pages.move_to({static_cast<const std::byte*>(parameter.data_ptr()), parameter.nbytes()});
    hash = tensors.mix_tensor(hash, parameter);
    pages.move_to({});
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace pocketvlm
