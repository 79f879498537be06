#include "apps/inspect_forward.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "data/sample.h"
#include "model/checkpoint.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// Where a family has no filler piece, the released code writes this id for an image.
constexpr std::int64_t kImageId = -200;

/// Ids with the pictures that belong into them.
struct Input {
  std::vector<std::int64_t> ids;         // as given
  std::vector<std::int64_t> places;      // of visual tokens, in order
  std::vector<std::array<int64_t, 2>> grids;
  PatchValues patches;                   // [patches, 3 * patch * patch]
};

Input from_prompt(const CommandLine& line, const ModelConfig& config, const Tokenizer& tokenizer) {
  Chat chat;
  chat.turns.push_back({"user", line.prompt});
  for (const std::string& path : line.images) chat.images.push_back(load_image(path, decode_options(config.image)));
  const EncodedChat encoded = PromptEncoder(tokenizer, config.prompt, config.image).encode(chat, true);
  Input input;
  input.ids.assign(encoded.ids.begin(), encoded.ids.end());
  input.places.assign(encoded.visual_positions.begin(), encoded.visual_positions.end());
  for (const auto& grid : encoded.grids) input.grids.push_back({grid[0], grid[1]});
  input.patches = encoded.patches;
  return input;
}

std::vector<std::int64_t> read_ids(const std::string& path, std::int64_t vocab) {
  const Json json = read_json(path);
  PV_CHECK(json.is_object() && json.contains("ids") && json["ids"].is_array() && !json["ids"].empty(),
           "{}: expected {{\"ids\": [...]}} with one id at least",
           path);
  std::vector<std::int64_t> ids;
  for (const Json& id : json["ids"]) {
    PV_CHECK(id.is_number_integer(), "{}: ids[{}] is {}, not a whole number", path, ids.size(), id.dump());
    ids.push_back(id.get<std::int64_t>());
    PV_CHECK(ids.back() == kImageId || (ids.back() >= 0 && ids.back() < vocab),
             "{}: ids[{}] = {} is outside the vocabulary of {}",
             path,
             ids.size() - 1,
             ids.back(),
             vocab);
  }
  return ids;
}

/// Ids whose runs are all whole slices and add up to the visual tokens.
std::vector<std::int64_t> fitting_fillers(const std::vector<std::int64_t>& ids, std::int64_t queries, std::int64_t wanted) {
  std::map<std::int64_t, std::int64_t> counts;
  std::map<std::int64_t, bool> whole;
  for (std::size_t begin = 0; begin < ids.size();) {
    std::size_t end = begin;
    while (end < ids.size() && ids[end] == ids[begin]) ++end;
    const auto run = static_cast<std::int64_t>(end - begin);
    counts[ids[begin]] += run;
    whole.emplace(ids[begin], true).first->second &= run % queries == 0;
    begin = end;
  }
  std::vector<std::int64_t> fitting;
  for (const auto& [id, count] : counts) {
    if (count == wanted && whole[id]) fitting.push_back(id);
  }
  return fitting;
}

/// The id that stands for visual tokens in given ids.
std::int64_t find_filler(const std::vector<std::int64_t>& ids,
                         const ModelConfig& config,
                         const Tokenizer* tokenizer,
                         std::int64_t visual_tokens,
                         const std::string& path) {
  for (const std::int64_t id : ids) {
    if (id == kImageId) return kImageId;
  }
  if (visual_tokens == 0) return kImageId;
  const std::vector<std::int64_t> fitting = fitting_fillers(ids, config.projector.num_queries, visual_tokens);
  if (tokenizer != nullptr) {
    if (const auto id = tokenizer->find(config.prompt.filler); id && (fitting.size() != 1)) return *id;
  }
  PV_CHECK(fitting.size() == 1,
           "{}: the pictures give {} visual tokens ({} a slice), but {} ids stand in runs that fit them; write -200 at every "
           "visual token",
           path,
           visual_tokens,
           config.projector.num_queries,
           fitting.size());
  return fitting.front();
}

Input from_ids(const CommandLine& line, const ModelConfig& config, const Tokenizer* tokenizer) {
  Input input;
  input.ids = read_ids(line.ids, config.language.vocab);
  const auto patch = static_cast<int>(config.image.patch_size);
  for (const std::string& path : line.images) {
    const ProcessedImage processed = process_image(load_image(path, decode_options(config.image)), config.image);
    for (const ImageSlice& slice : processed.slices) {
      input.grids.push_back({slice.height / patch, slice.width / patch});
      append_patches(slice, patch, input.patches);
    }
  }
  const auto visual_tokens = static_cast<std::int64_t>(input.grids.size()) * config.projector.num_queries;
  const std::int64_t filler = find_filler(input.ids, config, tokenizer, visual_tokens, line.ids);
  for (std::size_t i = 0; i < input.ids.size(); ++i) {
    const bool marks = input.ids[i] == filler && (visual_tokens > 0 || filler == kImageId);
    if (marks) input.places.push_back(static_cast<std::int64_t>(i));
  }
  PV_CHECK(static_cast<std::int64_t>(input.places.size()) == visual_tokens,
           "{}: id {} stands at {} places, but {} pictures give {} slices of {} visual tokens, {} in all; write one entry a visual token",
           line.ids,
           filler,
           input.places.size(),
           line.images.size(),
           input.grids.size(),
           config.projector.num_queries,
           visual_tokens);
  return input;
}

/// A tokenizer is needed for prompts; given ids do without.
std::optional<Tokenizer> load_tokenizer(const CommandLine& line) {
  if (line.ids.empty()) return Tokenizer::load(line.checkpoint);
  if (!fs::exists(fs::path(line.checkpoint) / "tokenizer.model")) return std::nullopt;
  return Tokenizer::load(line.checkpoint);
}

torch::Tensor as_tensor(const std::vector<std::int64_t>& values) { return torch::tensor(values, torch::kInt64); }

/// The stages of one forward pass, by the names of the output file.
std::map<std::string, torch::Tensor> run_stages(VisionLanguageModel& model, const Input& input) {
  std::map<std::string, torch::Tensor> stages;
  const ModelConfig& config = model->config();
  Batch batch;
  const torch::Tensor ids = as_tensor(input.ids);
  stages["input_ids"] = ids;
  batch.input_ids = ids.clamp_min(0);  // -200 is replaced by a visual token below
  batch.position_ids = torch::arange(ids.size(0), torch::kInt64);
  batch.segment_lengths = {ids.size(0)};
  torch::Tensor visual;
  if (!input.grids.empty()) {
    const int64_t width = 3 * config.image.patch_size * config.image.patch_size;
    batch.patches = torch::tensor(torch::ArrayRef<float>(input.patches)).view({-1, width});
    batch.grids = input.grids;
    batch.visual_positions = as_tensor(input.places);
    batch.visual_rows = torch::arange(batch.visual_positions.size(0), torch::kInt64);
    const torch::Tensor features = model->vision_features(batch.patches, batch.grids);
    visual = model->projector->forward(features, batch.grids);
    int64_t row = 0;
    for (std::size_t k = 0; k < input.grids.size(); ++k) {
      const int64_t patches = input.grids[k][0] * input.grids[k][1];
      stages[fmt::format("pixels.{}", k)] = batch.patches.narrow(0, row, patches);
      stages[fmt::format("vision.{}", k)] = features.narrow(0, row, patches);
      row += patches;
    }
    stages["projector"] = visual.unflatten(0, {-1, config.projector.num_queries});
  }
  stages["logits"] = model->logits(model->hidden_states(batch, visual));
  return stages;
}

void write_stages(const std::string& path, const std::map<std::string, torch::Tensor>& stages) {
  std::vector<torch::Tensor> kept;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, stage] : stages) {
    const bool ids = stage.scalar_type() == torch::kInt64;
    kept.push_back((ids ? stage : stage.to(torch::kFloat32)).contiguous());
    tensors.push_back({name, ids ? "I64" : "F32", stage.sizes().vec(), [tensor = kept.back()] {
                         return std::span(static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes());
                       }});
  }
  write_safetensors(path, tensors);
}

}  // namespace

void inspect_forward(const CommandLine& line) {
  if (line.threads > 0) at::set_num_threads(static_cast<int>(line.threads));
  ModelConfig config = load_checkpoint_config(line.checkpoint);
  if (!line.compat.empty()) config.compat = line.compat;
  if (line.max_slices > 0) {
    PV_CHECK(config.image.mode == "slices",
             "--max-slices: has no effect, this model takes pictures in mode \"{}\"; leave it out",
             config.image.mode);
    config.image.max_slices = line.max_slices;
  }
  const std::optional<Tokenizer> tokenizer = load_tokenizer(line);
  const Input input = line.ids.empty() ? from_prompt(line, config, *tokenizer)
                                       : from_ids(line, config, tokenizer ? &*tokenizer : nullptr);
  PV_CHECK(static_cast<int64_t>(input.ids.size()) <= config.language.max_positions,
           "{} tokens exceed language.max_positions = {}; shorten the input, or give fewer slices",
           input.ids.size(),
           config.language.max_positions);
  const torch::Dtype dtype = line.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  VisionLanguageModel model(config);
  load_weights(line.checkpoint, *model, dtype);
  model->eval();
  const torch::NoGradGuard no_grad;
  const ComputeDtype guard(dtype);
  const auto stages = run_stages(model, input);
  write_stages(line.out, stages);
  Json shapes = Json::object();
  for (const auto& [name, stage] : stages) shapes[name] = stage.sizes().vec();
  if (line.json) {
    std::fputs((Json{{"file", line.out}, {"compat", config.compat}, {"tensors", shapes}}.dump() + "\n").c_str(), stdout);
    return;
  }
  for (const auto& [name, stage] : stages) fmt::print("{:<16} {}\n", name, shapes[name].dump());
}

}  // namespace pocketvlm
