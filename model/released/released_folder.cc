#include "model/released/released_folder.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "base/config.h"
#include "base/error.h"
#include "base/log.h"
#include "data/preprocess/tokenizer_json.h"
#include "model/released/released_tensors.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::int64_t>;
using Tensors = std::map<std::string, TensorView>;

constexpr const char* kManifest = "pocketvlm-import.json";
constexpr const char* kKeptFile = "kept.safetensors";
constexpr const char* kFormat = "pocketvlm";

struct Manifest {
  std::string family;
  std::int64_t stored_vision_layers = 0;
  void visit_fields(auto&& field) {
    field("family", family, "family of the release", required());
    field("stored_vision_layers", stored_vision_layers, "blocks of the tower of 1.0 and 2.0 in its weights", at_least(0));
  }
};

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// What is wrong with a set of tensors, collected so that one error names everything.
class Problems {
 public:
  void missing(const std::string& name) { missing_.push_back(name); }
  void unexpected(const std::string& name) { unexpected_.push_back(name); }
  void check(const std::string& name, const TensorView& tensor, const Shape& shape) {
    if (tensor.shape != shape) {
      shapes_.push_back(fmt::format("{} {} instead of {}", name, shape_text(tensor.shape), shape_text(shape)));
    }
    if (tensor.dtype != "F32" && tensor.dtype != "F16" && tensor.dtype != "BF16") {
      types_.push_back(name + " " + tensor.dtype);
    }
  }
  void report(const std::string& where, const std::string& config_path) const {
    std::string text = part("missing tensors", missing_) + part("unexpected tensors", unexpected_) +
                       part("wrong shapes", shapes_) + part("types other than F32, F16 and BF16", types_);
    PV_CHECK(text.empty(),
             "{}: the weights are not those that {} describes{}; take both from the same release",
             where,
             config_path,
             text);
  }

 private:
  /// At most twenty names a kind, so that a wholly foreign folder gives a readable error.
  static std::string part(const char* title, const std::vector<std::string>& names) {
    constexpr std::size_t kShown = 20;
    if (names.empty()) return {};
    const std::vector<std::string> shown(names.begin(),
                                         names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size())));
    const std::string rest = names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : "";
    return fmt::format("; {}: {}{}", title, fmt::join(shown, ", "), rest);
  }

  std::vector<std::string> missing_, unexpected_, shapes_, types_;
};

bool is_weight_file(const fs::path& path) {
  static const std::set<std::string> kEndings = {
      ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt", ".npz"};
  return kEndings.count(path.extension().string()) != 0 || path.filename().string().ends_with(".index.json");
}

/// The release's small files: tokenizer, settings, code, licence.
void copy_small_files(const fs::path& from, const fs::path& to, const std::set<std::string>& left_out) {
  make_folders(to.string());
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || is_weight_file(entry.path()) || left_out.count(name) != 0) continue;
    write_file_atomic((to / name).string(), read_file(entry.path().string()));
  }
}

/// Checkpoints hold their vocabulary as tokenizer.model. A release that has tokenizer.json alone gets the GGUF form of it. A
/// vocabulary of an unknown kind does not keep the weights from being imported: given ids need none.
void copy_vocabulary(const fs::path& from, const fs::path& to) {
  const std::string target = (to / "tokenizer.model").string();
  if (fs::exists(from / "tokenizer.model")) {
    write_file_atomic(target, read_file((from / "tokenizer.model").string()));
  } else if (fs::exists(from / "tokenizer.json")) {
    try {
      write_file_atomic(target, gguf_vocabulary_bytes(Tokenizer::load((from / "tokenizer.json").string()).vocabulary()));
    } catch (const Error& error) {
      spdlog::warn("the checkpoint gets no vocabulary: {}", error.what());
    }
  }
}

double float_of(const TensorView& tensor, std::size_t index) {
  if (tensor.dtype == "F32") {
    float value;
    std::memcpy(&value, tensor.bytes.data() + 4 * index, 4);
    return value;
  }
  std::uint16_t word;
  std::memcpy(&word, tensor.bytes.data() + 2 * index, 2);
  if (tensor.dtype == "BF16") {
    const std::uint32_t bits = std::uint32_t{word} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  const int exponent = (word >> 10) & 31, fraction = word & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (word & 0x8000) != 0 ? -size : size;
}

/// The stored positions of the queries are a fixed table in the released code and must be the formula's up to rounding: first half of
/// the channels by column, second by row, each sines then cosines. Other values mean that something else was saved there.
void check_query_positions(const TensorView& tensor, const std::string& where) {
  const auto queries = tensor.shape[0], hidden = tensor.shape[1], quarter = hidden / 4;
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(queries))));
  // Half a step of the stored type at 1, and what float32 angles lose.
  const double tolerance = tensor.dtype == "BF16" ? 4e-3 : tensor.dtype == "F16" ? 6e-4 : 1e-5;
  for (std::int64_t i = 0; i < queries * hidden; ++i) {
    const std::int64_t query = i / hidden, channel = i % hidden;
    const auto position = static_cast<double>(channel < 2 * quarter ? query % side : query / side);
    const double angle = position * std::pow(10000.0, -static_cast<double>(channel % quarter) / static_cast<double>(quarter));
    const double expected = channel / quarter % 2 == 0 ? std::sin(angle) : std::cos(angle);
    const double stored = float_of(tensor, static_cast<std::size_t>(i));
    PV_CHECK(std::abs(stored - expected) <= tolerance,
             "{}: element [{}, {}] is {}, but the fixed 2-D sin-cos position there is {:.6f}; a learned table is not supported",
             where,
             query,
             channel,
             stored,
             expected);
  }
}

/// Checks names, shapes and dtypes of a released folder against the table.
void match_released(const std::vector<ReleasedTensor>& table,
                    const Tensors& tensors,
                    const std::string& folder,
                    const std::string& config_path) {
  Problems problems;
  std::set<std::string> known;
  for (const ReleasedTensor& row : table) {
    known.insert(row.name);
    const auto found = tensors.find(row.name);
    if (row.use == ReleasedUse::kBuffer) continue;
    if (found == tensors.end()) problems.missing(row.name);
    else problems.check(row.name, found->second, row.shape);
  }
  for (const auto& [name, tensor] : tensors) {
    if (known.count(name) == 0) problems.unexpected(name);
  }
  problems.report(folder, config_path);
}

std::int64_t num_elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

/// Turns mapped tensors into tensors to write: each is read when its turn comes, checked, and its pages are given back after.
class Stream {
 public:
  explicit Stream(bool allow_nonfinite) : allow_nonfinite_(allow_nonfinite) {}

  TensorToWrite tensor(const std::string& name, const TensorView& view, const Shape& shape, const std::string& where) const {
    return {name, view.dtype, shape, [view, where, pages = pages_, allow = allow_nonfinite_] {
              pages->move_to(view.bytes);
              if (!allow) check_finite(view, where);
              return view.bytes;
            }};
  }

  /// Our parts of one released tensor.
  std::vector<TensorToWrite> split(const ReleasedTensor& row, const TensorView& view, const std::string& where) const {
    std::vector<TensorToWrite> parts;
    std::size_t offset = 0;
    for (const TensorPart& part : row.parts) {
      const std::size_t bytes = static_cast<std::size_t>(num_elements(part.shape)) * dtype_bytes(view.dtype);
      const TensorView piece{view.dtype, part.shape, view.bytes.subspan(offset, bytes)};
      offset += bytes;
      parts.push_back(tensor(part.name, piece, part.shape, where));
    }
    return parts;
  }

  /// A released tensor from our parts, which must share one dtype.
  TensorToWrite join(const ReleasedTensor& row, const Tensors& ours, const ShardMap& shards) const {
    std::vector<TensorView> parts;
    for (const TensorPart& part : row.parts) parts.push_back(ours.at(part.name));
    const std::string where = shards.place(row.parts.front().name);
    if (parts.size() == 1) return tensor(row.name, parts.front(), row.shape, where);
    for (const TensorView& part : parts) {
      PV_CHECK(part.dtype == parts.front().dtype,
               "{}: has dtype {}, but another part of the released tensor {} has {}; save all weights in one dtype",
               where,
               parts.front().dtype,
               row.name,
               part.dtype);
    }
    const auto read = [parts, where, pages = pages_, joined = joined_, allow = allow_nonfinite_] {
      joined->clear();
      for (const TensorView& part : parts) {
        pages->move_to(part.bytes);
        if (!allow) check_finite(part, where);
        joined->insert(joined->end(), part.bytes.begin(), part.bytes.end());
      }
      return std::span<const std::byte>(*joined);
    };
    return {row.name, parts.front().dtype, row.shape, read};
  }

 private:
  bool allow_nonfinite_;
  std::shared_ptr<PageWindow> pages_ = std::make_shared<PageWindow>();
  std::shared_ptr<std::vector<std::byte>> joined_ = std::make_shared<std::vector<std::byte>>();  // one at a time
};

std::int64_t total_bytes(const std::vector<TensorToWrite>& tensors) {
  std::int64_t bytes = 0;
  for (const TensorToWrite& tensor : tensors) {
    bytes += num_elements(tensor.shape) * static_cast<std::int64_t>(dtype_bytes(tensor.dtype));
  }
  return bytes;
}

/// The architectures must agree; images and prompts may have been set otherwise since.
void check_same_architecture(const ModelConfig& config, const ModelConfig& released, const std::string& folder, const std::string& source) {
  const Json ours = config_to_json(config), theirs = config_to_json(released);
  for (const char* component : {"vision", "projector", "language"}) {
    for (auto item = ours[component].begin(); item != ours[component].end(); ++item) {
      PV_CHECK(*item == theirs[component][item.key()],
               "{}/config.json: model.{}.{} is {}, but the release in {} has {}; they belong to different models",
               folder,
               component,
               item.key(),
               item->dump(),
               source,
               theirs[component][item.key()].dump());
    }
  }
}

ModelConfig read_checkpoint_config(const std::string& folder) {
  const std::string path = (fs::path(folder) / "config.json").string();
  PV_CHECK(fs::exists(path), "{}: is not a checkpoint folder: config.json is missing", folder);
  const Json json = read_json(path);
  PV_CHECK(json.is_object() && json.contains("model") && json.value("format", "") == kFormat,
           "{}: is not a checkpoint of pocketvlm (no \"format\": \"{}\"); save-hf takes what import or a training run wrote",
           path,
           kFormat);
  return read_config<ModelConfig>(json["model"], path + ": model");
}

std::vector<std::string> names_of(const Tensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

}  // namespace

FolderSummary import_released(const std::string& folder, const std::string& out, const ImportOptions& options) {
  PV_CHECK(fs::is_directory(folder), "{}: no such folder", folder);
  const std::string config_path = (fs::path(folder) / "config.json").string();
  PV_CHECK(fs::exists(config_path), "{}: config.json is missing; download the whole release", folder);
  const Json config = read_json(config_path);
  FolderSummary summary;
  summary.family = detect_family(config, {}, config_path);  // unknown architectures are answered before weights are opened
  const ShardMap shards(folder);
  const WeightFolder weights(folder);
  const std::vector<std::string> names = names_of(weights.tensors());
  summary.family = detect_family(config, names, config_path);
  Manifest manifest;
  manifest.family = summary.family;
  manifest.stored_vision_layers = count_stored_vision_layers(names);
  const ReleasedModel released = read_released_config(config, manifest.family, config_path, manifest.stored_vision_layers);
  const std::vector<ReleasedTensor> table = released_tensors(released);
  match_released(table, weights.tensors(), folder, config_path);

  const Stream stream(options.allow_nonfinite);
  std::vector<TensorToWrite> model, kept;
  for (const ReleasedTensor& row : table) {
    const auto found = weights.tensors().find(row.name);
    if (found == weights.tensors().end()) continue;  // a buffer that this release does not store
    const std::string where = shards.place(row.name);
    if (row.use == ReleasedUse::kPositions) check_query_positions(found->second, where);
    if (row.parts.empty()) {
      kept.push_back(stream.tensor(row.name, found->second, found->second.shape, where));
      continue;
    }
    for (TensorToWrite& part : stream.split(row, found->second, where)) model.push_back(std::move(part));
  }

  NewFolder written(out, std::string(kReleasedFolder) + "/" + kManifest);
  const fs::path root(written.path()), aside = root / kReleasedFolder;
  copy_small_files(folder, aside, {});
  write_json((aside / kManifest).string(), config_to_json(manifest));
  write_safetensors((aside / kKeptFile).string(), kept, {{"format", "pt"}});
  write_weights(written.path(), model, options.max_shard_bytes);
  copy_vocabulary(aside, root);
  write_json((root / "config.json").string(), {{"format", kFormat}, {"model", config_to_json(released.config)}});
  written.commit();
  summary.tensors = static_cast<std::int64_t>(weights.tensors().size());
  summary.bytes = total_bytes(model) + total_bytes(kept);
  return summary;
}

FolderSummary save_released(const std::string& folder,
                            const std::string& source,
                            const std::string& out,
                            const ImportOptions& options) {
  PV_CHECK(fs::is_directory(folder), "{}: no such folder", folder);
  const ModelConfig config = read_checkpoint_config(folder);
  const fs::path aside = fs::path(source.empty() ? folder : source) / kReleasedFolder;
  PV_CHECK(fs::exists(aside / kManifest),
           "{}: is not there, so nothing says what the release had beside the weights; name the imported folder that this "
           "checkpoint was trained from with --source",
           (aside / kManifest).string());
  const auto manifest = load_config<Manifest>((aside / kManifest).string());
  const std::string config_path = (aside / "config.json").string();
  const ReleasedModel released = read_released_config(read_json(config_path), manifest.family, config_path, manifest.stored_vision_layers);
  check_same_architecture(config, released.config, folder, aside.string());

  const ShardMap shards(folder);
  const SafetensorsFolder weights(folder);
  const SafetensorsFile kept((aside / kKeptFile).string());
  const std::vector<ReleasedTensor> table = released_tensors(released);
  Problems problems;
  std::set<std::string> known;
  for (const ReleasedTensor& row : table) {
    for (const TensorPart& part : row.parts) {
      known.insert(part.name);
      const auto found = weights.tensors().find(part.name);
      if (found == weights.tensors().end()) problems.missing(part.name);
      else problems.check(part.name, found->second, part.shape);
    }
    if (row.use == ReleasedUse::kUnused && !kept.contains(row.name)) problems.missing(row.name);
  }
  for (const auto& [name, tensor] : weights.tensors()) {
    if (known.count(name) == 0) problems.unexpected(name);
  }
  problems.report(folder, (fs::path(folder) / "config.json").string());

  const Stream stream(options.allow_nonfinite);
  std::vector<TensorToWrite> tensors;
  for (const ReleasedTensor& row : table) {
    if (!row.parts.empty()) {
      tensors.push_back(stream.join(row, weights.tensors(), shards));
    } else if (kept.contains(row.name)) {
      const TensorView& view = kept.at(row.name);
      tensors.push_back(stream.tensor(row.name, view, view.shape, kept.path() + ": tensor " + row.name));
    }
  }
  NewFolder written(out, "");
  copy_small_files(aside, written.path(), {kManifest});
  write_weights(written.path(), tensors, options.max_shard_bytes);
  written.commit();
  return {manifest.family, static_cast<std::int64_t>(tensors.size()), total_bytes(tensors)};
}

}  // namespace pocketvlm
