#include "rlaif/shared_pack.h"

#include <utility>

#include "base/error.h"

namespace pocketvlm {

void append_sharing_picture(EncodedSample sample,
                            std::int64_t first_row,
                            std::int64_t num_rows,
                            PackedBatch& batch) {
  const std::vector<std::int32_t> positions = std::exchange(sample.chat.visual_positions, {});
  PV_CHECK(static_cast<std::int64_t>(positions.size()) == num_rows,
           "{}: {} visual tokens cannot show a picture of {}",
           sample.id,
           positions.size(),
           num_rows);
  sample.chat.patches.clear();
  sample.chat.grids.clear();
  const std::int64_t offset = batch.num_tokens();
  append_sample(sample, batch);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    batch.visual_positions.push_back(offset + positions[i]);
    batch.visual_rows.push_back(first_row + static_cast<std::int64_t>(i));
  }
}

std::vector<std::int64_t> targets_per_segment(const PackedBatch& batch) {
  std::vector<std::int64_t> counts;
  std::size_t token = 0;
  for (const std::int64_t length : batch.segment_lengths) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < length; ++i) count += batch.labels[token++] >= 0 ? 1 : 0;
    counts.push_back(count);
  }
  return counts;
}

}  // namespace pocketvlm
