#pragma once

#include "data/packed_batch.h"
#include "model/config.h"

namespace pocketvlm {

/// The pack with one more segment, which holds one black slice and no target: the same loss and gradients, but every part of
/// the model runs. Ranks that gather each other's weights need that when some of them have pictures and others text alone.
PackedBatch with_blank_picture(PackedBatch batch, const ModelConfig& config);

}  // namespace pocketvlm
