#pragma once

#include <torch/types.h>

#include <array>
#include <vector>

#include "data/packed_batch.h"

namespace pocketvlm {

/// PackedBatch as tensors on one device; same fields, same meaning (data/packed_batch.h).
struct Batch {
  torch::Tensor input_ids;         // [tokens] int64
  torch::Tensor position_ids;      // [tokens] int64
  torch::Tensor labels;            // [tokens] int64, already shifted, -100 = no target
  torch::Tensor loss_weights;      // [tokens] float32
  std::vector<int64_t> segment_lengths;
  torch::Tensor patches;           // [patches, 3 * patch * patch] float32; undefined without images
  std::vector<std::array<int64_t, 2>> grids;
  torch::Tensor visual_positions;  // [visual tokens] int64
  torch::Tensor visual_rows;       // [visual tokens] int64
};

Batch to_batch(const PackedBatch& packed, torch::Device device = torch::kCPU);

}  // namespace pocketvlm
