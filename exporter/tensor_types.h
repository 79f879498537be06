#pragma once

#include <cstdint>
#include <string>

#include "mobile/quants.h"

namespace pocketvlm {

/// What a matrix does, as far as its quantization cares.
enum class MatrixRole { kEmbedding, kOutput, kAttentionValue, kFeedForwardDown, kOther };

/// Which block type each matrix of a language model gets: llama.cpp's rules (gguf.md 5).
class TypePlan {
 public:
  /// `type`: f32, f16, q8_0, q6_k, q4_0 or q4_k_m. Throws Error for another name.
  TypePlan(const std::string& type, std::int64_t num_layers);
  GgmlType base() const { return base_; }
  GgmlType type_of(MatrixRole role, std::int64_t layer) const;

 private:
  GgmlType base_;
  bool mixed_ = false;  // q4_k_m: some matrices at Q6_K
  std::int64_t num_layers_;
};

/// The type itself, or the nearest one whose block divides the row: Q4_K -> Q5_0, Q6_K -> Q8_0, anything -> F16.
GgmlType fitting_type(GgmlType type, std::int64_t row_length);

/// Whether blocks of this quantization depend on importance: those of few bits do.
bool uses_importance(const std::string& type);

/// `general.file_type` of a quantization name.
std::uint32_t file_type_number(const std::string& type);

}  // namespace pocketvlm
