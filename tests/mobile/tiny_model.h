#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "mobile/quants.h"
#include "mobile/session.h"

namespace pocketvlm {

/// A very small random model for tests: what it is made of.
struct TinyModel {
  std::string architecture = "llama";   // llama | minicpm | qwen2
  GgmlType type = GgmlType::kF32;       // of the language matrices
  std::string projector = "resampler";  // resampler | mlp | ldp | ldpv2
  std::string vision_positions = "bucketed";
  std::string projector_positions = "key";
  std::string activation = "gelu_tanh";
  GgmlType vision_type = GgmlType::kF16;
  bool tied = false;
  std::uint64_t seed = 1;

  // Sizes; the language widths suit 256-blocks when `wide`.
  bool wide = false;
  std::int64_t hidden() const { return wide ? 256 : 64; }
  std::int64_t ffn() const { return wide ? 512 : 96; }
  std::int64_t heads() const { return 4; }
  std::int64_t kv_heads() const { return 2; }
  std::int64_t layers() const { return 2; }
  bool resampler() const { return projector == "resampler"; }
};

struct TinyFiles {
  std::string language;
  std::string mmproj;
};

/// Writes both files into a fresh temporary folder, which is removed at the end of the process.
TinyFiles write_tiny_model(const TinyModel& model);

/// A question about a picture of noise.
EncodedChat noise_picture(const Session& session);

/// Memory aligned as packed weights and prompts are.
struct alignas(64) Line {
  std::byte bytes[64];
};

/// A new temporary folder, removed at the end of the process.
std::string temporary_folder();

}  // namespace pocketvlm
