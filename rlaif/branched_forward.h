#pragma once

#include <torch/types.h>

#include "model/vision_language_model.h"
#include "rlaif/shared_pack.h"

namespace pocketvlm {

/// Hidden states of a batch whose segments may continue others, of the tokens `rows` [wanted] int64: [wanted, hidden].
/// `batch` is `branched.batch` as tensors.
torch::Tensor branched_hidden_states(VisionLanguageModel& model,
                                     const BranchedBatch& branched,
                                     const Batch& batch,
                                     const torch::Tensor& rows);

}  // namespace pocketvlm
