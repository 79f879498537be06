#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/packed_loader.h"
#include "model/lora_config.h"
#include "trainer/distributed/distributed_config.h"
#include "trainer/feature_cache_config.h"
#include "trainer/step_guard.h"
#include "trainer/step_trace_config.h"

/// A stage as data; LibTorch-free, so that mistakes are answered at once.
namespace pocketvlm {

struct OptimizerConfig {
  double learning_rate = 1e-3;
  std::map<std::string, double> learning_rate_factors;  // pattern -> factor
  std::string schedule = "cosine";
  int64_t warmup_steps = 20;
  double final_ratio = 0.1;
  double weight_decay = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double clip_norm = 1.0;
  std::vector<std::string> orthogonalized;  // patterns

  void visit_fields(auto&& field) {
    field("learning_rate", learning_rate, "peak, reached after warm-up", in_range(0, 10));
    field("learning_rate_factors", learning_rate_factors,
          "name pattern -> factor of the learning rate; of several that match, the last in alphabetical order wins");
    field("schedule", schedule, "after warm-up: cosine to final_ratio, linear to final_ratio, constant, or wsd (constant, then "
          "linear over the last fifth)", one_of({"cosine", "linear", "constant", "wsd"}));
    field("warmup_steps", warmup_steps, "linear warm-up, optimizer steps", at_least(0));
    field("final_ratio", final_ratio, "last learning rate as part of the peak", in_range(0, 1));
    field("weight_decay", weight_decay, "decoupled (AdamW); not on vectors", at_least(0));
    field("beta1", beta1, "first moment", in_range(0, 0.9999999));
    field("beta2", beta2, "second moment", in_range(0, 0.9999999));
    field("eps", eps, "in the denominator", at_least(0));
    field("clip_norm", clip_norm, "gradients are scaled down to this norm; 0 is off", at_least(0));
    field("orthogonalized", orthogonalized,
          "name patterns of matrices that are updated by their orthogonalized momentum (Muon) instead of AdamW; the update is "
          "scaled so that the same learning rate fits both; vectors that match stay with AdamW");
  }
  void validate(const std::string& path) const;
};

/// What a stage sees instead of the model's own image and prompt settings: low resolution in stage 1, captions without chat.
struct StageInput {
  std::optional<std::string> image_mode;
  std::optional<int64_t> image_size;
  std::optional<int64_t> scale_resolution;
  std::optional<int64_t> max_slices;
  std::optional<std::string> chat_template;

  void visit_fields(auto&& field) {
    field("image_mode", image_mode, "instead of image.mode", one_of({"slices", "squash", "pad_square", "center_crop"}));
    field("image_size", image_size, "instead of image.image_size, pixels", in_range(1, 8192));
    field("scale_resolution", scale_resolution, "instead of image.scale_resolution, pixels", in_range(1, 8192));
    field("max_slices", max_slices, "instead of image.max_slices", in_range(1, 1024));
    field("chat_template", chat_template, "instead of prompt.chat_template",
          one_of({"chatml", "llama3", "minicpm", "vicuna_v1", "plain", "alpaca", "vicuna_v0", "llava_llama_2"}));
  }
};

/// One stage of training: what learns, from which data, for how long.
struct StageConfig {
  std::string name;
  std::string objective = "language";
  std::string init_from;                  // name of an earlier stage, or a checkpoint folder; empty: the stage before
  std::vector<std::string> trainable = {"*"};
  std::optional<LoraConfig> lora;
  LoaderConfig data;
  StageInput input;
  OptimizerConfig optimizer;
  int64_t steps = 100;
  int64_t accumulation = 1;               // packs an optimizer step, on each rank
  std::string compute_dtype = "bf16";
  DistributedConfig distributed;
  bool recompute_blocks = false;
  FeatureCacheConfig feature_cache;
  double ema_decay = 0;
  GuardConfig guard;
  int64_t checkpoint_every = 100;         // optimizer steps
  bool checkpoint_in_background = true;
  int64_t log_every = 10;
  bool log_samples = false;
  std::optional<StepTraceConfig> trace;
  int64_t threads = 0;                    // 0: all cores
  std::string device = "cpu";
  double peak_tflops = 0;
  uint64_t seed = 0;
  bool branch = false;                    // true: later stages do not continue from this one (a judge)

  void visit_fields(auto&& field) {
    field("name", name, "folder of the stage's results", required());
    field("objective", objective,
          "language: next-token loss on targets; contrastive: sigmoid loss between pictures and their texts (SigLIP), trains "
          "vision_encoder with two heads that are dropped afterwards", one_of({"language", "contrastive"}));
    field("init_from", init_from, "earlier stage or checkpoint folder; empty: the stage before, or random weights");
    field("trainable", trainable, "name patterns that learn; everything else is frozen and checked to be bit-identical afterwards");
    field("lora", lora,
          "low-rank updates that learn beside `trainable`, whose patterns should then leave out the layers they stand on; the stage's "
          "checkpoint has them merged, and its folder adapter/ holds them alone in PEFT's form");
    field("data", data, "mixture, packing, workers");
    field("input", input, "image and prompt settings of this stage alone");
    field("optimizer", optimizer, "AdamW, or Muon for chosen matrices");
    field("steps", steps, "optimizer steps", in_range(1, 1e12));
    field("accumulation", accumulation,
          "packs an optimizer step, on each rank; what a stage took in a step when it began, it keeps on any number of ranks",
          in_range(1, 1 << 20));
    field("compute_dtype", compute_dtype, "dtype of matrix products; master weights stay float32", one_of({"bf16", "f32"}));
    field("distributed", distributed, "what the ranks of an mpirun or srun job divide among them");
    field("recompute_blocks", recompute_blocks,
          "keep only the input of each transformer block and run the block again in backward: less memory, a third more work, "
          "the same bits");
    field("feature_cache", feature_cache, "of a frozen vision encoder: pictures seen again are not encoded again");
    field("ema_decay", ema_decay,
          "after each good step, averages of what learns become this part of themselves plus the rest of the weights (float32, 4 bytes "
          "a trained number, divided among ranks like the moments); the stage writes checkpoint-ema/ beside checkpoint/; 0: no averages",
          in_range(0, 0.9999999));
    field("guard", guard, "steps that must not be taken");
    field("checkpoint_every", checkpoint_every, "optimizer steps between resumable states; 0: only at the end", at_least(0));
    field("checkpoint_in_background", checkpoint_in_background,
          "true: a step waits only while what its rank writes is copied in memory (12 bytes a trained number under AdamW, kept for the "
          "states after), and the state counts some steps later; false: it waits until the state is on disk");
    field("log_every", log_every, "optimizer steps between metric lines", at_least(1));
    field("log_samples", log_samples,
          "write the ids of the samples of every step, of all ranks, into samples.jsonl of the stage's folder");
    field("trace", trace,
          "steps whose operations rank 0 records with LibTorch's profiler in trace.json, for ui.perfetto.dev; they take longer, the numbers "
          "stay; null: none");
    field("threads", threads, "0: all cores", in_range(0, 1024));
    field("device", device, "cpu or cuda", one_of({"cpu", "cuda"}));
    field("peak_tflops", peak_tflops,
          "matrix products a rank can do, 10^12 operations a second, for the utilization shown (MFU); 0: measured when the stage "
          "starts", in_range(0, 1e6));
    field("seed", seed, "of data order and of new weights");
    field("branch", branch, "a side model (a judge): later stages do not continue from it");
  }
  void validate(const std::string& path) const;
};

/// The image and prompt settings that a stage trains with.
ImageConfig stage_image(const StageInput& input, ImageConfig image);
PromptConfig stage_prompt(const StageInput& input, PromptConfig prompt);

}  // namespace pocketvlm
