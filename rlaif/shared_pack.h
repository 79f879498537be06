#pragma once

#include <vector>

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

/// A packed batch in which segments may continue an earlier one: what they have in common is there
/// once. Positions of a continuation go on behind its parent's.
struct BranchedBatch {
  PackedBatch batch;
  std::vector<std::int64_t> parents;  // [segments], the segment that this one continues; -1: none
};

/// Appends sequences about one picture that begin alike: their longest common beginning as a segment
/// without targets, and the rest of each as a segment that continues it. A continuation has at
/// least its last prompt token, so that each predicts its own first answer token; visual tokens
/// always lie in the common part. Sequences after the first may have an outline of the picture in its place (Image::outline).
/// Throws Error when the pictures are not the same.
void append_branches(std::vector<EncodedSample> sequences, BranchedBatch& branched);

/// The whole sequences that a decoder's attention sees: for every segment without continuation, its
/// ancestors' tokens and its own.
///   expand    [sum of lengths], the packed token at each place
///   collapse  [tokens], the first place of each packed token
///   unread    of each sequence, its leading places that stand in an earlier sequence, too
struct WholeSequences {
  std::vector<std::int64_t> expand, collapse, lengths, unread;
};
WholeSequences whole_sequences(const BranchedBatch& branched);

}  // namespace pocketvlm
