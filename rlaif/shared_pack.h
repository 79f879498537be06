#pragma once

#include "data/packed_batch.h"

namespace pocketvlm {

/// Appends a sample as a segment whose visual places name rows of the projector output that another
/// segment's picture made: the picture is encoded once, and its gradient is the sum over the
/// segments.
///   first_row, num_rows   the rows of that picture
/// Throws Error when the sample does not have as many visual tokens.
void append_sharing_picture(EncodedSample sample,
                            std::int64_t first_row,
                            std::int64_t num_rows,
                            PackedBatch& batch);

/// Targets of each segment.
std::vector<std::int64_t> targets_per_segment(const PackedBatch& batch);

}  // namespace pocketvlm
