#include "trainer/blank_picture.h"

namespace pocketvlm {
namespace {

/// As few patches as encoder and projector take.
std::array<int64_t, 2> smallest_grid(const ModelConfig& config) {
  if (config.vision.positions == "fixed") return {config.vision.position_side, config.vision.position_side};
  if (config.projector.kind == "mlp") return {1, config.projector.num_queries};
  if (config.projector.kind == "resampler") return {1, 1};
  return {2, 2 * config.projector.num_queries};  // two by two patches become one token
}

/// Appends tokens without targets as a segment.
void append_blank_segment(PackedBatch& batch, int64_t tokens, int64_t slices, const char* name) {
  for (int64_t i = 0; i < tokens; ++i) {
    batch.input_ids.push_back(0);
    batch.position_ids.push_back(i);
    batch.labels.push_back(kNotATarget);
    batch.loss_weights.push_back(0.0F);
  }
  batch.segment_lengths.push_back(tokens);
  batch.segment_slices.push_back(slices);
  batch.sample_ids.emplace_back(name);
}

}  // namespace

PackedBatch with_blank_text(PackedBatch batch) {
  append_blank_segment(batch, 1, 0, "blank text");
  return batch;
}

PackedBatch with_blank_picture(PackedBatch batch, const ModelConfig& config) {
  const int64_t first = batch.num_tokens(), queries = config.projector.num_queries;
  const std::array<int64_t, 2> grid = smallest_grid(config);
  const int64_t numbers = grid[0] * grid[1] * 3 * config.image.patch_size * config.image.patch_size;
  batch.grids.push_back(grid);
  batch.patches.insert(batch.patches.end(), static_cast<std::size_t>(numbers), 0.0F);
  const auto first_row = static_cast<int64_t>(batch.grids.size() - 1) * queries;
  for (int64_t i = 0; i < queries; ++i) {
    batch.visual_positions.push_back(first + i);
    batch.visual_rows.push_back(first_row + i);
  }
  append_blank_segment(batch, queries, 1, "blank picture");
  return batch;
}

}  // namespace pocketvlm
