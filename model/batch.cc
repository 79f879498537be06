#include "model/batch.h"

#include "base/error.h"

namespace pocketvlm {
namespace {

template <typename T, typename Allocator>
torch::Tensor to_tensor(const std::vector<T, Allocator>& values, torch::Dtype dtype, torch::Device device) {
  return torch::from_blob(const_cast<T*>(values.data()),
                          {static_cast<int64_t>(values.size())},
                          torch::TensorOptions().dtype(dtype))
      .clone()
      .to(device);
}

}  // namespace

Batch to_batch(const PackedBatch& packed, torch::Device device) {
  const int64_t tokens = packed.num_tokens();
  TORCH_INTERNAL_ASSERT(static_cast<int64_t>(packed.position_ids.size()) == tokens &&
                        static_cast<int64_t>(packed.labels.size()) == tokens &&
                        static_cast<int64_t>(packed.loss_weights.size()) == tokens &&
                        packed.visual_positions.size() == packed.visual_rows.size());
  Batch batch;
  batch.input_ids = to_tensor(packed.input_ids, torch::kInt64, device);
  batch.position_ids = to_tensor(packed.position_ids, torch::kInt64, device);
  batch.labels = to_tensor(packed.labels, torch::kInt64, device);
  batch.loss_weights = to_tensor(packed.loss_weights, torch::kFloat32, device);
  batch.segment_lengths = packed.segment_lengths;
  batch.grids = packed.grids;
  if (!packed.grids.empty()) {
    int64_t patches = 0;
    for (const auto& grid : packed.grids) patches += grid[0] * grid[1];
    TORCH_INTERNAL_ASSERT(patches > 0 && static_cast<int64_t>(packed.patches.size()) % patches == 0);
    batch.patches = to_tensor(packed.patches, torch::kFloat32, device).view({patches, -1});
    batch.visual_positions = to_tensor(packed.visual_positions, torch::kInt64, device);
    batch.visual_rows = to_tensor(packed.visual_rows, torch::kInt64, device);
  }
  return batch;
}

}  // namespace pocketvlm
