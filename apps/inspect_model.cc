#include "apps/inspect_model.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/json.h"
#include "model/config.h"
#include "model/released/released_tensors.h"

namespace pocketvlm {
namespace {

/// Ranks of the sharded figures: one machine of the usual kind.
constexpr std::int64_t kRanks = 8;

Json counts_to_json(const ParameterCounts& counts) {
  return {{"vision_encoder", counts.vision_encoder},
          {"projector", counts.projector},
          {"language", counts.language},
          {"total", counts.total()}};
}

/// Forward work of one text token, attention scores left out (they depend on the context): two operations a weight that is
/// multiplied; embeddings are looked up, the output layer is not.
std::int64_t flops_per_token(const ModelConfig& config, const ParameterCounts& counts) {
  const LanguageConfig& language = config.language;
  const std::int64_t looked_up = language.tied_embeddings ? 0 : language.vocab * language.hidden;
  return 2 * (counts.language - looked_up);
}

/// Patches of one slice: of the square that slicing aims at, or of the one size that the model takes.
std::int64_t patches_per_slice(const ModelConfig& config) {
  const ImageConfig& image = config.image;
  const std::int64_t side = (image.mode == "slices" ? image.scale_resolution : image.image_size) / image.patch_size;
  return side * side;
}

std::int64_t vision_flops(const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  const std::int64_t patches = patches_per_slice(config), tokens = patches + (vision.class_token ? 1 : 0), v = vision.hidden;
  const std::int64_t embedding = 2 * patches * v * 3 * config.image.patch_size * config.image.patch_size;
  const std::int64_t linears = 2 * tokens * (4 * v * v + 2 * v * vision.ffn), attention = 4 * tokens * tokens * v;
  return embedding + vision.num_layers * (linears + attention);
}

std::int64_t projector_flops(const ModelConfig& config) {
  const std::int64_t patches = patches_per_slice(config), v = config.vision.hidden, h = config.language.hidden;
  const std::int64_t queries = config.projector.num_queries;
  if (config.projector.kind == "resampler") {
    const std::int64_t keys_and_values = 2 * patches * (v * h + 2 * h * h);
    return keys_and_values + 3 * 2 * queries * h * h + 4 * queries * patches * h;
  }
  const std::int64_t mlp = 2 * patches * (v * h + h * h), depthwise = 2 * 9 * h;
  if (config.projector.kind == "mlp") return mlp;
  if (config.projector.kind == "ldpv2") return mlp + queries * depthwise;
  const std::int64_t squeeze = 2 * 2 * h * ldp_squeeze_channels(h);
  return mlp + (patches + queries) * (depthwise + 2 * h * h) + 2 * squeeze;
}

/// Weights, gradients and two moments of AdamW in bytes a rank, when every parameter is trained. bf16: a copy of the weights to
/// compute with beside the float32 masters.
Json training_memory(std::int64_t parameters, bool bf16) {
  const std::int64_t weights = 4 * parameters, gradients = 4 * parameters, moments = 8 * parameters;
  const std::int64_t copies = bf16 ? 2 * parameters : 0;
  const auto shared = [](std::int64_t bytes) { return (bytes + kRanks - 1) / kRanks; };
  return {{"replicated_bytes", weights + gradients + moments + copies},
          {"sharded_optimizer_8_bytes", weights + gradients + copies + shared(moments)},
          {"sharded_full_8_bytes", shared(weights + gradients + moments + copies)}};
}

Json memory_to_json(const ModelConfig& config, std::int64_t total) {
  const LanguageConfig& language = config.language;
  return {{"weights_bf16_bytes", total * 2},
          {"weights_f32_bytes", total * 4},
          {"training_replicated_bytes", total * 16},
          {"training_sharded_8_bytes", (total * 16 + kRanks - 1) / kRanks},
          {"training_f32", training_memory(total, false)},
          {"training_bf16", training_memory(total, true)},
          {"kv_cache_f16_bytes_per_token", 2 * 2 * language.num_layers * language.num_kv_heads * language.head_dim}};
}

/// 1234567 as 1,234,567.
std::string grouped(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

void print_report(const Json& report, const std::string& model) {
  const auto count = [&](const char* table, const char* name) { return report[table][name].get<std::int64_t>(); };
  fmt::print("parameters\n");
  for (const char* component : {"vision_encoder", "projector", "language", "total"}) {
    const std::int64_t stored = count("parameters", component), run = count("parameters_that_run", component);
    fmt::print("  {:<15} {:>15}{}\n", component, grouped(stored), run == stored ? "" : fmt::format("   ({} of them run)", grouped(run)));
  }
  const auto giga = [](std::int64_t operations) { return static_cast<double>(operations) * 1e-9; };
  fmt::print("forward work, GFLOP\n  {:<15} {:>10.1f}\n  {:<15} {:>10.1f}   {} visual tokens\n",
             "a text token",
             giga(report["flops_per_token"].get<std::int64_t>()),
             "one slice",
             giga(count("flops_per_image", "one_slice")),
             count("visual_tokens", "one_slice"));
  if (count("visual_tokens", "most_slices") > count("visual_tokens", "one_slice")) {
    fmt::print("  {:<15} {:>10.1f}   {} visual tokens\n", "most slices", giga(count("flops_per_image", "most_slices")), count("visual_tokens", "most_slices"));
  }
  const Json& memory = report["memory"];
  const auto gib = [](const Json& bytes) { return bytes.get<double>() / (1 << 30); };
  fmt::print("memory, GiB        weights   trained whole by AdamW, without activations: one GPU, or each of {}\n"
             "  {:<15} {:>8} {:>10} {:>18} {:>10}\n",
             kRanks, "compute dtype", "", "replicated", "moments divided", "all divided");
  for (const char* type : {"f32", "bf16"}) {
    const Json& training = memory[fmt::format("training_{}", type)];
    fmt::print("  {:<15} {:>8.1f} {:>10.1f} {:>18.1f} {:>10.1f}\n",
               type,
               gib(memory[fmt::format("weights_{}_bytes", type)]),
               gib(training["replicated_bytes"]),
               gib(training["sharded_optimizer_8_bytes"]),
               gib(training["sharded_full_8_bytes"]));
  }
  fmt::print("  {} bytes of f16 cache a token; activations depend on the stage: pocketvlm train STAGE.json --model {} --simulate-ranks 1\n",
             grouped(memory["kv_cache_f16_bytes_per_token"].get<std::int64_t>()),
             model);
}

}  // namespace

void inspect_model(const CommandLine& line) {
  const ModelConfig config = load_model_config(line.file);
  const ParameterCounts run = count_parameters(config);
  // What a released checkpoint of this architecture stores; a little of it never runs.
  const auto form = released_form(config);
  const ParameterCounts stored = form ? count_released_parameters(*form) : run;
  const std::int64_t slice_flops = vision_flops(config) + projector_flops(config);
  const std::int64_t most_slices = config.image.mode == "slices" && config.image.max_slices > 1 ? config.image.max_slices + 1 : 1;
  const Json report = {{"parameters", counts_to_json(stored)},
                       {"parameters_that_run", counts_to_json(run)},
                       {"flops_per_token", flops_per_token(config, run)},
                       {"flops_per_image",
                        {{"vision_encoder_per_slice", vision_flops(config)},
                         {"projector_per_slice", projector_flops(config)},
                         {"one_slice", slice_flops},
                         {"most_slices", slice_flops * most_slices}}},
                       {"visual_tokens", {{"one_slice", config.projector.num_queries}, {"most_slices", config.projector.num_queries * most_slices}}},
                       {"memory", memory_to_json(config, run.total())}};
  if (line.json) {
    std::fputs((report.dump() + "\n").c_str(), stdout);
    return;
  }
  print_report(report, line.file);
}

}  // namespace pocketvlm
