#pragma once

#include <string>
#include <vector>

#include "base/config.h"

namespace pocketvlm {

/// What leaves for the phone, and how far it may differ from the trainer.
struct ExportConfig {
  std::vector<std::string> types = {"f16", "q8_0", "q4_0", "q4_k_m"};
  std::string mmproj_type = "f16";
  int64_t parity_prompts = 16;
  int64_t importance_prompts = 0;
  double min_vision_cosine = 0.999;
  double min_agreement_f16 = 1.0;
  double min_agreement_q8_0 = 0.98;
  double min_agreement_q4 = 0.85;

  void visit_fields(auto&& field) {
    field("types", types, "quantizations of the language model, one file each", one_of({"f32", "f16", "q8_0", "q4_0", "q4_k_m", "q6_k"}));
    field("mmproj_type", mmproj_type, "of the vision encoder and projector", one_of({"f32", "f16", "q8_0"}));
    field("parity_prompts", parity_prompts, "held-out prompts with pictures on which phone and trainer must agree; 0: no gate",
          in_range(0, 100000));
    field("importance_prompts", importance_prompts,
          "other prompts with pictures that tell which columns of the language model's matrices matter to quantizations below eight bits; "
          "0: the reference's rules",
          in_range(0, 100000));
    field("min_vision_cosine", min_vision_cosine, "visual tokens, phone against trainer, smallest cosine", in_range(-1, 1));
    field("min_agreement_f16", min_agreement_f16, "next-token choices under teacher forcing, F16 and F32", in_range(0, 1));
    field("min_agreement_q8_0", min_agreement_q8_0, "the same, Q8_0 and Q6_K", in_range(0, 1));
    field("min_agreement_q4", min_agreement_q4, "the same, 4-bit types", in_range(0, 1));
  }
};

}  // namespace pocketvlm
