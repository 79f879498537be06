#pragma once

#include "data/packed_batch.h"
#include "model/config.h"

namespace pocketvlm {

/// The pack with one more segment, which holds one black slice and no target: the same loss and gradients, but every part of
/// the model runs. Ranks that gather each other's weights need that when some of them have pictures and others text alone.
PackedBatch with_blank_picture(PackedBatch batch, const ModelConfig& config);

/// The pack with one more token, which is no target: what a pack becomes that lost all its samples.
PackedBatch with_blank_text(PackedBatch batch);

}  // namespace pocketvlm
