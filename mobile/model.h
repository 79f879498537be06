#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"
#include "mobile/gguf.h"

/// What a model on the phone is, read from GGUF metadata; the tensors stay in the mapped files.
///
/// Beside the keys that stock llama.cpp reads, our files carry keys of their own, which it ignores:
///   pocketvlm.image_config        (both files) JSON of ImageConfig
///   pocketvlm.prompt_config       (both files) JSON of PromptConfig
///   pocketvlm.vision.positions    bucketed | strips (2.5 as released) | interpolated | fixed
///   pocketvlm.vision.activation   gelu_tanh | gelu_erf | quick_gelu
///   pocketvlm.position_embd.weight a tensor: the model's own position table, where libmtmd reads
///   another (v.position_embd.weight then)
///   pocketvlm.projector.positions key | key_and_query | interpolated
///   pocketvlm.projector.heads     u32, attention heads of the resampler
///   pocketvlm.projector.activation gelu_erf | gelu_tanh, between the linear layers of mlp, ldp,
///   ldpv2 pocketvlm.projector.norm_epsilon f32, of the projector's norms (llama.cpp uses the
///   encoder's)
/// Without them (a stock file) llama.cpp's facts hold.
namespace pocketvlm {

inline constexpr const char* kOwnPositionTable = "pocketvlm.position_embd.weight";

/// Elementwise functions of encoder and projector.
enum class MobileActivation { kGeluTanh, kGeluErf, kQuickGelu, kSilu };

/// Vision transformer over the patches of one slice after another (mmproj file, `clip.vision.*` and
/// `v.*`).
struct MobileVisionParams {
  std::int64_t hidden = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t ffn = 0;
  std::int64_t patch_size = 14;
  std::int64_t image_size = 448;
  float norm_eps = 1e-6F;
  MobileActivation activation = MobileActivation::kGeluTanh;
  bool class_token = false;  // v.class_embd: prepended, not handed to the projector
  bool pre_norm = false;     // v.pre_ln
  bool final_norm = false;   // v.post_ln
  std::string positions = "bucketed";
  std::string position_table = "v.position_embd.weight";
  std::int64_t position_side = 70;  // the table has side * side rows, + 1 with class token
};

/// From the patches of a slice to visual tokens (mmproj file, `resampler.*` or `mm.*`).
struct MobileProjectorParams {
  std::string kind = "resampler";  // resampler | mlp | ldp | ldpv2
  std::int64_t num_queries = 64;   // visual tokens a slice
  std::int64_t num_heads = 0;      // resampler
  std::int64_t hidden = 0;         // width of its output = of the language model
  std::string positions = "key";   // key | key_and_query | interpolated
  float norm_eps = 1e-6F;
  MobileActivation activation = MobileActivation::kGeluTanh;
};

/// Decoder (language file, `<arch>.*`).
struct MobileLanguageParams {
  std::string architecture;  // llama | minicpm | qwen2
  std::int64_t vocab = 0;
  std::int64_t hidden = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t ffn = 0;
  std::int64_t max_positions = 0;
  float norm_eps = 1e-5F;
  double rope_theta = 10000.0;
  double rope_scaling = 1.0;  // positions are divided by it
  bool rope_pairs = true;     // llama, minicpm: pairs (2i, 2i+1); qwen2: (i, i + head_dim / 2)
  bool tied_embeddings = false;
  float scale_embeddings =
      1.0F;  // of text and image embeddings alike: the projector's are stored divided by it
  float scale_residual = 1.0F;
  float scale_logits = 1.0F;  // logits are divided by it
};

/// Reads and checks the metadata; tensors are checked where they are bound. Throws Error naming
/// file and key.
MobileLanguageParams read_language_params(const GgufFile& language);
MobileVisionParams read_vision_params(const GgufFile& mmproj);
MobileProjectorParams read_projector_params(const GgufFile& mmproj);

/// Preprocessing and prompt of a model: our own keys where present (language file first),
/// llama.cpp's facts otherwise. `mmproj` may be null: a text-only model.
ImageConfig read_image_config(const GgufFile& language, const GgufFile* mmproj);
PromptConfig read_prompt_config(const GgufFile& language, const GgufFile* mmproj);

}  // namespace pocketvlm
