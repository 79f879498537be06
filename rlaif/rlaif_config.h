#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "base/error.h"
#include "data/source_config.h"
#include "trainer/stage_config.h"

/// The alignment loop as data; LibTorch-free.
namespace pocketvlm {

struct RolloutConfig {
  int64_t samples = 10;
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t top_k = 0;
  int64_t max_new_tokens = 96;
  void visit_fields(auto&& field) {
    field("samples", samples, "answers a prompt; the same decoding for all", in_range(2, 1000));
    field("temperature", temperature, "high, so that answers differ", in_range(0.01, 10));
    field("top_p", top_p, "nucleus", in_range(0.01, 1));
    field("top_k", top_k, "0 is off", at_least(0));
    field("max_new_tokens", max_new_tokens, "of an answer", in_range(1, 1 << 20));
  }
};

struct PairConfig {
  int64_t min_difference = 1;
  int64_t max_pairs_per_prompt = 2;
  bool length_control = true;
  std::string score = "count";
  void visit_fields(auto&& field) {
    field("min_difference",
          min_difference,
          "pairs differ by at least this many rejected claims",
          at_least(1));
    field(
        "max_pairs_per_prompt", max_pairs_per_prompt, "drawn at random, seeded", in_range(1, 1000));
    field("length_control",
          length_control,
          "drop pairs whose rejected answer is much longer (one-sided, corpus level)");
    field("score",
          score,
          "count: -(rejected claims), as published; rate: -(rejected / claims)",
          one_of({"count", "rate"}));
  }
};

struct PreferenceConfig {
  std::string loss = "sigmoid";
  double beta = 0.1;
  double sft_weight = 0.0;
  int64_t epochs = 1;
  int64_t batch_pairs = 16;
  OptimizerConfig optimizer;
  std::vector<std::string> trainable = {"*"};
  std::string compute_dtype = "bf16";
  int64_t pack_tokens = 8192;
  int64_t checkpoint_every = 20;
  void visit_fields(auto&& field) {
    field("loss", loss, "sigmoid (DPO), ipo, hinge", one_of({"sigmoid", "ipo", "hinge"}));
    field("beta", beta, "strength of the pull to the reference; above 0", at_least(0));
    field("sft_weight",
          sft_weight,
          "weight of the chosen answer's mean-token NLL (RPO style)",
          at_least(0));
    field("epochs", epochs, "passes over the pairs", in_range(1, 10000));
    field("batch_pairs", batch_pairs, "pairs an optimizer step", in_range(1, 1 << 20));
    field("optimizer", optimizer, "AdamW, or Muon for chosen matrices");
    field("trainable", trainable, "name patterns that learn");
    field("compute_dtype", compute_dtype, "dtype of matrix products", one_of({"bf16", "f32"}));
    field("pack_tokens",
          pack_tokens,
          "tokens of one forward, at most (one pair always fits); a step's pairs are divided into "
          "packs",
          in_range(1, 1 << 24));
    field("checkpoint_every",
          checkpoint_every,
          "optimizer steps between resumable states; 0: only at the end",
          at_least(0));
  }
  void validate(const std::string& path) const {
    PV_CHECK(beta > 0,
             "{}.beta: 0 takes the pairs out of the loss; give a positive number such as 0.1",
             path);
  }
};

struct RlaifConfig {
  std::string name = "rlaif";
  std::string policy;  // checkpoint folder, or stage name inside a recipe
  std::string judge;
  SourceConfig prompts;  // pictures; the question is `instruction`
  int64_t num_prompts = 200;
  std::string instruction = "describe the picture in detail.";
  RolloutConfig rollout;
  PairConfig pairs;
  PreferenceConfig preference;
  int64_t batch = 12;                 // of 10 answers: what the generator decodes together
  std::string compute_dtype = "f32";  // of sampling and judging
  std::string device = "cpu";
  uint64_t seed = 0;
  int64_t threads = 0;

  void visit_fields(auto&& field) {
    field("name", name, "folder of the results");
    field("policy", policy, "checkpoint folder, or stage name inside a recipe", required());
    field("judge", judge, "checkpoint folder, or stage name inside a recipe", required());
    field("prompts", prompts, "source of the pictures");
    field("num_prompts", num_prompts, "pictures used", in_range(1, 1e12));
    field("instruction", instruction, "what the policy is asked");
    field("rollout", rollout, "sampling");
    field("pairs", pairs, "from scores to pairs");
    field("preference", preference, "DPO");
    field("batch", batch, "prompts worked on together, and written together", in_range(1, 4096));
    field("compute_dtype",
          compute_dtype,
          "dtype of matrix products when sampling and judging",
          one_of({"bf16", "f32"}));
    field("device", device, "cpu or cuda", one_of({"cpu", "cuda"}));
    field("seed", seed, "of sampling and of pair choice");
    field("threads", threads, "0: all cores", in_range(0, 1024));
  }
};

}  // namespace pocketvlm
