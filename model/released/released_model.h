#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"

/// The released MiniCPM-V and MobileVLM checkpoints as data: whose code a folder belongs to, what its config.json means
/// in our words, and what stands in it beyond the weights that run. LibTorch-free.
namespace pocketvlm {

/// Which code's names a folder uses.
enum class ReleasedLayout {
  kMiniCpmVTimm,    // 1.0, 2.0: `vpm` is timm's ViT with fused query, key and value
  kMiniCpmVSiglip,  // 2.5, 2.6: `vpm` is a SigLIP of the transformers library
  kMobileVlm,       // v1, V2: a LLaMA with `model.vision_tower` and `model.mm_projector`
};

struct ReleasedModel {
  ReleasedLayout layout = ReleasedLayout::kMiniCpmVSiglip;
  ModelConfig config;
  std::int64_t unused_vision_layers = 0;  // last blocks of the tower that are stored and never run
};

/// The family ("minicpmv-2.6", "mobilevlm-v2" ...) of a released folder, from its config.json and the names of its tensors.
/// `where` (the file) starts every error. Throws Error for an architecture that is not one of these.
std::string detect_family(const Json& config, const std::vector<std::string>& tensor_names, const std::string& where);

/// What a released config.json says, for a family that detect_family gave. Configs of 1.0, 2.0 and MobileVLM only name their
/// vision tower; an object "vision_config" (SigLIP / CLIP field names) overrides the named tower's sizes. Throws Error naming the
/// key that is missing, of a wrong type, or says something that the model cannot do.
///
/// `stored_vision_layers`: blocks that the weights of 1.0 and 2.0 hold (0: not known). Their code builds the tower without its last
/// block; a "vision_config" may count the blocks before that or after it, and the weights tell which.
ReleasedModel read_released_config(const Json& config,
                                   const std::string& family,
                                   const std::string& where,
                                   std::int64_t stored_vision_layers = 0);

/// Blocks of a vision tower in the layout of 1.0 and 2.0 among these names; 0 when there are none.
std::int64_t count_stored_vision_layers(const std::vector<std::string>& tensor_names);

/// The released layout that holds a model of this architecture, or nothing when none does.
std::optional<ReleasedModel> released_form(const ModelConfig& config);

}  // namespace pocketvlm
