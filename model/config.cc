#include "model/config.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

fs::path program_folder() {
  char buffer[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", buffer, sizeof(buffer));
  if (length <= 0) return {};
  return fs::path(std::string(buffer, static_cast<std::size_t>(length))).parent_path();
}

/// Folders that may hold presets, first match wins.
std::vector<fs::path> preset_folders() {
  std::vector<fs::path> folders;
  if (const char* given = std::getenv("POCKETVLM_CONFIGS"); given != nullptr && *given != '\0') {
    folders.emplace_back(given);
    folders.emplace_back(fs::path(given) / "models");
  }
  const fs::path program = program_folder();
  if (!program.empty()) folders.push_back(program / ".." / ".." / "configs" / "models");
  folders.emplace_back(fs::path("configs") / "models");
  return folders;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const fs::path& folder : preset_folders()) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

int64_t exact_square_root(int64_t n) {
  const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(n))));
  return root * root == n ? root : 0;
}

void validate_vision(const ModelConfig& config, const std::string& path, int64_t grid_side) {
  const VisionConfig& vision = config.vision;
  PV_CHECK(vision.hidden % vision.num_heads == 0,
           "{}.vision: hidden {} is not a multiple of num_heads {}; change one of them",
           path,
           vision.hidden,
           vision.num_heads);
  PV_CHECK(!vision.class_token || vision.positions == "fixed",
           "{}.vision.class_token: only works with vision.positions = \"fixed\" (CLIP), not \"{}\"",
           path,
           vision.positions);
  PV_CHECK(!vision.strip_quirk || vision.positions == "bucketed",
           "{}.vision.strip_quirk: only works with vision.positions = \"bucketed\", not \"{}\"",
           path,
           vision.positions);
  if (vision.positions == "fixed") {
    PV_CHECK(config.image.mode != "slices",
             "{}.vision.positions: \"fixed\" needs images of one size, but image.mode is \"slices\"; "
             "set image.mode to pad_square, center_crop or squash, or vision.positions to bucketed",
             path);
    PV_CHECK(vision.position_side == grid_side,
             "{}.vision.position_side: {} must equal image.image_size / image.patch_size = {} when "
             "positions are fixed",
             path,
             vision.position_side,
             grid_side);
  }
}

void validate_projector(const ModelConfig& config, const std::string& path, int64_t grid_side) {
  const ProjectorConfig& projector = config.projector;
  PV_CHECK(config.prompt.num_queries == projector.num_queries,
           "{}.prompt.num_queries: {} differs from projector.num_queries {}; set both to the same number",
           path,
           config.prompt.num_queries,
           projector.num_queries);
  if (projector.kind == "resampler") {
    PV_CHECK(config.language.hidden % projector.num_heads == 0,
             "{}.projector.num_heads: {} does not divide language.hidden {}",
             path,
             projector.num_heads,
             config.language.hidden);
    PV_CHECK(config.language.hidden % 4 == 0,
             "{}.language.hidden: {} must be a multiple of 4 for the resampler's 2-D sin-cos positions",
             path,
             config.language.hidden);
    PV_CHECK(projector.positions == "key" || exact_square_root(projector.num_queries) > 0,
             "{}.projector.num_queries: {} must be a square number for positions \"{}\"",
             path,
             projector.num_queries,
             projector.positions);
    return;
  }
  PV_CHECK(config.image.mode != "slices",
           "{}.projector.kind: \"{}\" keeps the grid of patches and needs images of one size, but image.mode is "
           "\"slices\"; use kind resampler, or image.mode pad_square, center_crop or squash",
           path,
           projector.kind);
  const bool pooled = projector.kind != "mlp";
  PV_CHECK(!pooled || grid_side % 2 == 0,
           "{}.projector.kind: \"{}\" pools 2 x 2 patches, but a side has {} patches; change image.image_size",
           path,
           projector.kind,
           grid_side);
  const int64_t tokens = pooled ? grid_side * grid_side / 4 : grid_side * grid_side;
  PV_CHECK(projector.num_queries == tokens,
           "{}.projector.num_queries: {} must be {} for kind \"{}\" and {} x {} patches",
           path,
           projector.num_queries,
           tokens,
           projector.kind,
           grid_side,
           grid_side);
}

void validate_language(const LanguageConfig& language, const std::string& path) {
  PV_CHECK(language.num_heads % language.num_kv_heads == 0,
           "{}.language.num_kv_heads: {} does not divide num_heads {}",
           path,
           language.num_kv_heads,
           language.num_heads);
  PV_CHECK(language.head_dim % 2 == 0,
           "{}.language.head_dim: {} must be even for rotary positions",
           path,
           language.head_dim);
  for (const auto& [name, value] : {std::pair{"scale_embeddings", language.scale_embeddings},
                                    std::pair{"scale_residual", language.scale_residual},
                                    std::pair{"scale_logits", language.scale_logits}}) {
    PV_CHECK(std::isfinite(value) && value != 0.0,
             "{}.language.{}: {} must be a number other than 0; 1 switches it off",
             path,
             name,
             value);
  }
}

}  // namespace

void ModelConfig::validate(const std::string& path) const {
  const bool square = image.mode != "slices";
  const int64_t side = square ? image.image_size : image.scale_resolution;
  PV_CHECK(!square || image.image_size % image.patch_size == 0,
           "{}.image.image_size: {} is not a multiple of image.patch_size {}",
           path,
           image.image_size,
           image.patch_size);
  PV_CHECK(side >= image.patch_size,
           "{}.image.{}: {} is smaller than one patch of {} pixels",
           path,
           square ? "image_size" : "scale_resolution",
           side,
           image.patch_size);
  const int64_t grid_side = image.image_size / image.patch_size;
  validate_vision(*this, path, grid_side);
  validate_projector(*this, path, grid_side);
  validate_language(language, path);
  PV_CHECK(language.max_positions > projector.num_queries,
           "{}.language.max_positions: {} leaves no room for text beside the {} visual tokens of one slice",
           path,
           language.max_positions,
           projector.num_queries);
}

ModelConfig load_model_config(const std::string& preset_or_path) {
  PV_CHECK(!preset_or_path.empty(), "model: the name of a preset or the path of a config file is needed");
  const bool looks_like_path =
      preset_or_path.find('/') != std::string::npos || preset_or_path.ends_with(".json");
  if (!looks_like_path) {
    for (const fs::path& folder : preset_folders()) {
      const fs::path file = folder / (preset_or_path + ".json");
      if (is_file(file)) return load_config<ModelConfig>(file.lexically_normal().string());
    }
    const std::vector<std::string> names = preset_names();
    if (is_file(preset_or_path)) return load_config<ModelConfig>(preset_or_path);
    const auto close = closest_name(preset_or_path, names);
    PV_CHECK(!names.empty(),
             "model \"{}\": no presets found; set POCKETVLM_CONFIGS to the folder configs/models, or give the "
             "path of a config file",
             preset_or_path);
    fail("model \"{}\": no such preset{}; known: {}; or give the path of a .json file",
         preset_or_path,
         close ? fmt::format(", did you mean \"{}\"?", *close) : "",
         fmt::join(names, ", "));
  }
  return load_config<ModelConfig>(preset_or_path);
}

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  const VisionConfig& vision = config.vision;
  const int64_t v = vision.hidden;
  const int64_t patch_inputs = 3 * config.image.patch_size * config.image.patch_size;
  const int64_t vision_block = 4 * (v * v + v) + (v * vision.ffn + vision.ffn) + (vision.ffn * v + v) + 4 * v;
  counts.vision_encoder = v * patch_inputs + (vision.patch_bias ? v : 0) +
                          v * vision.position_side * vision.position_side +
                          (vision.class_token ? 2 * v : 0) + (vision.pre_norm ? 2 * v : 0) +
                          (vision.final_norm ? 2 * v : 0) + vision.num_layers * vision_block;

  const LanguageConfig& language = config.language;
  const int64_t h = language.hidden;
  const int64_t q = language.num_heads * language.head_dim;
  const int64_t kv = language.num_kv_heads * language.head_dim;
  const int64_t block = h * q + 2 * h * kv + q * h + (language.qkv_bias ? q + 2 * kv : 0) +
                        3 * h * language.ffn + 2 * h;
  counts.language =
      language.vocab * h * (language.tied_embeddings ? 1 : 2) + language.num_layers * block + h;

  const int64_t mlp = v * h + h + h * h + h;
  if (config.projector.kind == "resampler") {
    counts.projector = config.projector.num_queries * h + v * h + 3 * 2 * h + 4 * (h * h + h) + h * h;
  } else if (config.projector.kind == "mlp") {
    counts.projector = mlp;
  } else if (config.projector.kind == "ldpv2") {
    counts.projector = mlp + 9 * h + h;
  } else {
    const int64_t squeeze = ldp_squeeze_channels(h);
    const int64_t ldp_block = 9 * h + 2 * h + (h * squeeze + squeeze) + (squeeze * h + h) + h * h + 2 * h;
    counts.projector = mlp + 2 * ldp_block;
  }
  return counts;
}

int64_t ldp_squeeze_channels(int64_t hidden) {
  const int64_t wanted = hidden / 4;
  const int64_t rounded = std::max<int64_t>(8, (wanted + 4) / 8 * 8);
  return 10 * rounded < 9 * wanted ? rounded + 8 : rounded;
}

}  // namespace pocketvlm
