#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// A sample as tokens, ready to be packed.
struct EncodedSample {
  std::string id;
  std::string task;
  EncodedChat chat;
  float weight = 1.0F;  // factor of its targets in the loss
  std::int64_t num_images = 0;  // pictures, each of one slice or more
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(chat.ids.size()); }
};

/// One row of tokens that holds many whole samples (design decision 2). Attention never crosses a
/// segment; positions restart in each. Plain vectors: data/ knows no tensors.
struct PackedBatch {
  std::vector<std::int64_t> input_ids;        // [tokens]
  std::vector<std::int64_t> position_ids;     // [tokens], restart at 0 in each segment
  std::vector<std::int64_t> labels;           // [tokens], the id that FOLLOWS this token, or -100
  std::vector<float> loss_weights;            // [tokens], 0 where labels is -100
  std::vector<std::int64_t> segment_lengths;  // sum = tokens
  PatchValues patches;                        // [patches, 3 * patch * patch]
  std::vector<std::array<std::int64_t, 2>> grids;  // [slices], (rows, columns)
  std::vector<std::int64_t> visual_positions;      // [slices * queries], places in input_ids
  std::vector<std::int64_t>
      visual_rows;  // same length: row of the projector output [slices * queries] that
                    // goes there; segments may share an image by naming the same rows
  std::vector<std::int64_t> segment_slices;  // [segments], slices that a segment owns
  std::vector<std::string> sample_ids;       // [segments]
  std::int64_t num_images = 0;               // of all segments

  std::int64_t num_tokens() const { return static_cast<std::int64_t>(input_ids.size()); }
  std::int64_t num_targets() const;
};

/// Appends one sample as a segment: shifts labels, restarts positions, moves visual places.
void append_sample(const EncodedSample& sample, PackedBatch& batch);

}  // namespace pocketvlm
