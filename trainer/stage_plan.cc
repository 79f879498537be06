#include "trainer/stage_plan.h"

#include <algorithm>
#include <cmath>

#include "model/name_patterns.h"
#include "trainer/training_work.h"

namespace pocketvlm {
namespace {

/// Parameters inside transformer blocks (divided under full sharding), and outside.
struct Split {
  double blocks = 0, outside = 0, largest_block = 0;
  double learned_blocks = 0, learned_outside = 0;
};

double vision_block(const VisionConfig& vision) {
  const auto v = static_cast<double>(vision.hidden), f = static_cast<double>(vision.ffn);
  return 4 * v * v + 2 * v * f + 9 * v + f;  // four projections and two MLP matrices with biases, two LayerNorms
}

double language_block(const LanguageConfig& language) {
  const auto h = static_cast<double>(language.hidden), heads = static_cast<double>(language.num_heads * language.head_dim);
  const auto kv = static_cast<double>(language.num_kv_heads * language.head_dim);
  return 2 * h * heads + 2 * h * kv + 3 * h * static_cast<double>(language.ffn) + 2 * h +
         (language.qkv_bias ? heads + 2 * kv : 0);
}

Split split_parameters(const ModelConfig& model, const LearningComponents& learning) {
  const ParameterCounts counts = count_parameters(model);
  const double vision = vision_block(model.vision) * static_cast<double>(model.vision.num_layers);
  const double language = language_block(model.language) * static_cast<double>(model.language.num_layers);
  Split split;
  split.blocks = vision + language;
  split.outside = static_cast<double>(counts.total()) - split.blocks;
  split.largest_block = std::max(vision_block(model.vision), language_block(model.language));
  split.learned_blocks = (learning.vision_encoder ? vision : 0) + (learning.language ? language : 0);
  split.learned_outside = (learning.vision_encoder ? static_cast<double>(counts.vision_encoder) - vision : 0) +
                          (learning.projector ? static_cast<double>(counts.projector) : 0) +
                          (learning.language ? static_cast<double>(counts.language) - language : 0);
  return split;
}

struct PlannedLinear {
  std::string name;  // inside its block
  int64_t in, out;
};

std::vector<PlannedLinear> vision_linears(const VisionConfig& vision) {
  const int64_t v = vision.hidden;
  return {{"attn.q_proj", v, v}, {"attn.k_proj", v, v}, {"attn.v_proj", v, v}, {"attn.out_proj", v, v},
          {"mlp.fc1", v, vision.ffn}, {"mlp.fc2", vision.ffn, v}};
}

std::vector<PlannedLinear> language_linears(const LanguageConfig& language) {
  const int64_t h = language.hidden, q = language.num_heads * language.head_dim, kv = language.num_kv_heads * language.head_dim;
  return {{"self_attn.q_proj", h, q}, {"self_attn.k_proj", h, kv}, {"self_attn.v_proj", h, kv}, {"self_attn.o_proj", q, h},
          {"mlp.gate_proj", h, language.ffn}, {"mlp.up_proj", h, language.ffn}, {"mlp.down_proj", language.ffn, h}};
}

bool matches_any(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

/// Numbers of the blocks' matrices that Muon updates; those outside of blocks are planned as AdamW's.
double orthogonalized_parameters(const StageConfig& config, const ModelConfig& model, const LearningComponents& learning) {
  double numbers = 0;
  const auto add = [&](const std::string& blocks, int64_t layers, const std::vector<PlannedLinear>& linears) {
    for (int64_t i = 0; i < layers; ++i) {
      for (const PlannedLinear& linear : linears) {
        const bool matches = matches_any(fmt::format("{}.{}.{}.weight", blocks, i, linear.name), config.optimizer.orthogonalized);
        numbers += matches ? static_cast<double>(linear.in * linear.out) : 0;
      }
    }
  };
  if (learning.vision_encoder) add("vision_encoder.blocks", model.vision.num_layers, vision_linears(model.vision));
  if (learning.language) add("language.layers", model.language.num_layers, language_linears(model.language));
  return numbers;
}

/// LoRA's updates of the blocks' Linears.
struct PlannedUpdates {
  double parameters = 0;
  double vision_values = 0, language_values = 0;  // kept for backward by a row of one block, in compute dtype
};

PlannedUpdates plan_updates(const StageConfig& config, const ModelConfig& model) {
  PlannedUpdates updates;
  if (!config.lora) return updates;
  const LoraConfig& lora = *config.lora;
  /// The values of one block; all blocks that have updates are taken to have the same.
  const auto add = [&](const std::string& blocks, int64_t layers, const std::vector<PlannedLinear>& linears) {
    double values = 0;
    for (const PlannedLinear& linear : linears) {
      int64_t changed = 0;
      for (int64_t i = 0; i < layers; ++i) {
        changed += matches_any(fmt::format("{}.{}.{}", blocks, i, linear.name), lora.targets) ? 1 : 0;
      }
      updates.parameters += static_cast<double>(changed * lora.rank * (linear.in + linear.out));
      // What the first factor gives; dropout keeps its mask and the input that is left.
      if (changed > 0) values += static_cast<double>(lora.rank + (lora.dropout > 0 ? 2 * linear.in : 0));
    }
    return values;
  };
  updates.vision_values = add("vision_encoder.blocks", model.vision.num_layers, vision_linears(model.vision));
  updates.language_values = add("language.layers", model.language.num_layers, language_linears(model.language));
  return updates;
}

double slices_of(const ImageConfig& image, const PlanAssumptions& assumptions) {
  if (assumptions.slices > 0) return assumptions.slices;
  if (image.mode != "slices" || image.max_slices == 1) return 1;
  return 1 + static_cast<double>(image.max_slices) / 2;
}

/// A pack of equal samples, each of one picture.
struct PlannedPack {
  PackShape shape;
  double samples = 0;
};

PlannedPack plan_pack(const StageConfig& config, const ModelConfig& model, const PlanAssumptions& assumptions) {
  const ImageConfig image = stage_image(config.input, model.image);
  const double slices = slices_of(image, assumptions);
  const int64_t side = (image.mode == "slices" ? image.scale_resolution : image.image_size) / image.patch_size;
  const auto patches = static_cast<double>(side * side);
  const double sample_tokens = slices * static_cast<double>(model.projector.num_queries) + assumptions.text_tokens;
  PlannedPack pack;
  pack.samples = static_cast<double>(config.data.batch_tokens) / sample_tokens;
  pack.shape.tokens = config.data.batch_tokens;
  pack.shape.targets = std::llround(pack.samples * assumptions.text_tokens * assumptions.target_share);
  pack.shape.squared_segments = pack.samples * sample_tokens * sample_tokens;
  pack.shape.slices = std::llround(pack.samples * slices);
  pack.shape.patches = std::llround(pack.samples * slices * patches);
  pack.shape.squared_slices = pack.samples * slices * patches * patches;
  return pack;
}

bool recomputes(const StageConfig& config) { return config.recompute_blocks || config.distributed.sharding == "full"; }

/// What backward needs of one pack: per token of a block that is kept, the residual stream twice (float32), norms, queries, keys,
/// values, attention, MLP inner values and those of LoRA in compute dtype, and the block's weights in it where the masters have
/// another; of a block that is recomputed, its float32 input, and one block at a time whole.
double activation_bytes(const StageConfig& config,
                        const ModelConfig& model,
                        const LearningComponents& learning,
                        const PlannedUpdates& updates,
                        const PackShape& shape) {
  const bool half = config.compute_dtype == "bf16";
  const double bytes = half ? 2 : 4;
  const auto of = [&](double width, double inner, double rows, double layers, double block_weights, bool needed) {
    if (!needed) return 0.0;
    const double input = 4 * width * rows, weights = half ? bytes * block_weights : 0;
    const double whole = (2 * 4 * width + bytes * (3 * width + inner)) * rows + weights;
    return recomputes(config) ? layers * input + whole : layers * whole;
  };
  const VisionConfig& vision = model.vision;
  const LanguageConfig& language = model.language;
  const auto v = static_cast<double>(vision.hidden), h = static_cast<double>(language.hidden);
  const double heads = static_cast<double>((language.num_heads + 2 * language.num_kv_heads) * language.head_dim);
  const bool to_vision = learning.vision_encoder || updates.vision_values > 0;
  const bool through = to_vision || learning.projector || learning.language || updates.language_values > 0;
  return of(v, 3 * v + 2 * static_cast<double>(vision.ffn) + updates.vision_values, static_cast<double>(shape.patches),
            static_cast<double>(vision.num_layers), vision_block(vision), to_vision) +
         of(h, heads + 3 * static_cast<double>(language.ffn) + updates.language_values, static_cast<double>(shape.tokens),
            static_cast<double>(language.num_layers), language_block(language), through) +
         static_cast<double>(shape.patches) * 3 * static_cast<double>(model.image.patch_size * model.image.patch_size) * 4;
}

}  // namespace

LearningComponents learning_components(const StageConfig& config) {
  return LearningComponents::of(config.trainable, config.lora ? config.lora->targets : std::vector<std::string>());
}

RankPlan plan_stage(const StageConfig& config, const ModelConfig& model, const PlanAssumptions& assumptions, int64_t ranks) {
  const LearningComponents learning = learning_components(config);
  const PlannedUpdates updates = plan_updates(config, model);
  Split split = split_parameters(model, learning);
  split.blocks += updates.parameters;
  split.learned_blocks += updates.parameters;
  const PlannedPack pack = plan_pack(config, model, assumptions);
  const auto n = static_cast<double>(ranks);
  const double accumulation = static_cast<double>(config.accumulation), sent = (n - 1) / n;
  const double learned = split.learned_blocks + split.learned_outside;
  const std::string& mode = config.distributed.sharding;
  RankPlan plan;
  plan.ranks = ranks;
  if (mode == "full") {
    plan.weights_bytes = 4 * (split.outside + split.blocks / n);
    plan.gradients_bytes = 4 * (split.learned_outside + split.learned_blocks / n);
    // Weights of the block that runs, and its gradients; with overlap the weights of the next one, and gradients on their way.
    plan.gathered_bytes = (config.distributed.overlap ? 4 : 2) * 4 * split.largest_block;
    // Blocks travel twice as weights (forward, backward) and once as gradients in every pack.
    plan.traffic_bytes = 4 * sent * (accumulation * (2 * split.blocks + split.learned_blocks) + 2 * split.learned_outside);
  } else {
    plan.weights_bytes = 4 * (split.outside + split.blocks);
    plan.gradients_bytes = 4 * learned;
    plan.traffic_bytes = 4 * sent * 2 * learned;  // gradients are summed in parts; sums or new weights are gathered
  }
  const double holders = mode == "replicated" ? 1 : n;
  plan.moments_bytes = (8 * learned - 4 * orthogonalized_parameters(config, model, learning)) / holders;
  plan.averages_bytes = config.ema_decay > 0 ? 4 * learned / holders : 0;
  plan.activations_bytes = activation_bytes(config, model, learning, updates, pack.shape);
  const double whole = 4 * (split.blocks + split.outside);
  const bool copies_states = config.checkpoint_in_background && config.checkpoint_every > 0;
  // States are divided among ranks whatever is divided on the GPUs.
  const double copies = copies_states ? (4 * learned + (plan.moments_bytes + plan.averages_bytes) * holders) / n : 0;
  // Under full sharding the blocks are divided on their way from the checkpoint (load_stage_model); a new model is drawn whole.
  const double loaded = mode == "full" && !config.init_from.empty() ? 4 * split.outside : whole;
  plan.host_bytes = loaded + copies;
  plan.first_host_bytes = whole + copies;
  plan.operations = accumulation * training_operations(model, learning, pack.shape);
  plan.samples_per_step = pack.samples * accumulation * n;
  plan.steps = assumptions.samples > 0 ? static_cast<double>(assumptions.samples) / plan.samples_per_step
                                       : static_cast<double>(config.steps);
  plan.days = plan.steps * plan.operations / (assumptions.mfu * assumptions.peak_tflops * 1e12) / 86400;
  return plan;
}

Json RankPlan::to_json() const {
  return {{"ranks", ranks},
          {"memory_bytes", memory_bytes()},
          {"weights_bytes", weights_bytes},
          {"gradients_bytes", gradients_bytes},
          {"moments_bytes", moments_bytes},
          {"averages_bytes", averages_bytes},
          {"gathered_bytes", gathered_bytes},
          {"activations_bytes", activations_bytes},
          {"host_bytes", host_bytes},
          {"first_host_bytes", first_host_bytes},
          {"traffic_bytes_per_step", traffic_bytes},
          {"operations_per_step", operations},
          {"samples_per_step", samples_per_step},
          {"steps", steps},
          {"days", days}};
}

std::string plan_text(const StageConfig& config,
                      const ModelConfig& model,
                      const PlanAssumptions& assumptions,
                      const std::vector<RankPlan>& plans) {
  const auto gib = [](double bytes) { return bytes / (1 << 30); };
  std::string text = fmt::format(
      "{}: {} ({:.2f} G parameters), sharding {}, {} tokens a pack, accumulation {}\n"
      "assumed: {:.0f} text tokens a sample, {:.1f} slices a picture, {:.0f} % of {:.0f} TFLOP/s a GPU\n"
      "{:>6} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>12} {:>12} {:>10} {:>8}\n",
      config.name,
      model.family,
      static_cast<double>(count_parameters(model).total()) / 1e9,
      config.distributed.sharding,
      config.data.batch_tokens,
      config.accumulation,
      assumptions.text_tokens,
      slices_of(stage_image(config.input, model.image), assumptions),
      100 * assumptions.mfu,
      assumptions.peak_tflops,
      "GPUs",
      "GiB a GPU",
      "weights",
      "gradients",
      "moments",
      "averages",
      "gathered",
      "activations",
      "host",
      "rank 0's",
      "GiB sent",
      "samples",
      "steps",
      "days");
  for (const RankPlan& plan : plans) {
    text += fmt::format("{:>6} {:>10.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>11.1f} {:>9.1f} {:>9.1f} {:>12.2f} {:>12.0f} {:>10.0f} {:>8.2f}\n",
                        plan.ranks,
                        gib(plan.memory_bytes()),
                        gib(plan.weights_bytes),
                        gib(plan.gradients_bytes),
                        gib(plan.moments_bytes),
                        gib(plan.averages_bytes),
                        gib(plan.gathered_bytes),
                        gib(plan.activations_bytes),
                        gib(plan.host_bytes),
                        gib(plan.first_host_bytes),
                        gib(plan.traffic_bytes),
                        plan.samples_per_step,
                        plan.steps,
                        plan.days);
  }
  text += "host: of each process (GPUs of one machine add up), and of rank 0\n"
          "GiB sent, samples: in one optimizer step (sent by a GPU; samples of all)\n";
  if (recomputes(config) || plans.empty()) return text;
  StageConfig recomputed = config;
  recomputed.recompute_blocks = true;
  const double kept = plans.front().activations_bytes, less = plan_stage(recomputed, model, assumptions, plans.front().ranks).activations_bytes;
  return text + fmt::format("recompute_blocks = true would keep {:.1f} GiB of activations instead of {:.1f}, for one more forward of each block\n", gib(less), gib(kept));
}

}  // namespace pocketvlm
