#pragma once

#include <string>

#include "base/config.h"

namespace pocketvlm {

/// How descriptions and yes/no answers are measured; LibTorch-free.
struct EvaluationConfig {
  std::string prompt = "describe the picture in detail.";
  int64_t max_new_tokens = 96;
  int64_t batch = 32;           // pictures a batch
  int64_t pope_per_image = 3;   // yes questions, and as many no questions, a picture and negative kind
  uint64_t seed = 0;
  std::string compute_dtype = "f32";
  void visit_fields(auto&& field) {
    field("prompt", prompt, "what the model is asked for its description");
    field("max_new_tokens", max_new_tokens, "of a description", in_range(1, 1 << 20));
    field("batch", batch, "pictures a batch", in_range(1, 4096));
    field("pope_per_image", pope_per_image, "yes questions, and as many no questions, a picture and negative kind", in_range(1, 100));
    field("seed", seed, "of the negatives drawn");
    field("compute_dtype", compute_dtype, "dtype of matrix products", one_of({"bf16", "f32"}));
  }
};

}  // namespace pocketvlm
