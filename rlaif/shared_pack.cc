#include "rlaif/shared_pack.h"

#include <algorithm>
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

namespace {

// Tokens [begin, end) of a sample, without its pictures.
EncodedSample part_of(const EncodedSample& sample, std::size_t begin, std::size_t end) {
  const auto first = static_cast<std::ptrdiff_t>(begin);
  const auto last = static_cast<std::ptrdiff_t>(end);
  EncodedSample part;
  part.id = sample.id;
  part.task = sample.task;
  part.weight = sample.weight;
  part.chat.ids.assign(sample.chat.ids.begin() + first, sample.chat.ids.begin() + last);
  part.chat.is_target.assign(sample.chat.is_target.begin() + first,
                             sample.chat.is_target.begin() + last);
  return part;
}

// Tokens before the one that predicts the first target, or before the last token when there is none.
std::size_t prompt_without_end(const EncodedChat& chat) {
  const auto first = std::find(chat.is_target.begin(), chat.is_target.end(), 1);
  const auto prompt = static_cast<std::size_t>(first - chat.is_target.begin());
  return prompt == 0 ? 0 : prompt - 1;
}

}  // namespace

void append_branches(std::vector<EncodedSample> sequences, BranchedBatch& branched) {
  const EncodedChat& first = sequences.front().chat;
  std::size_t common = prompt_without_end(first);
  for (const EncodedSample& sequence : sequences) {
    const EncodedChat& chat = sequence.chat;
    const auto differs = std::mismatch(first.ids.begin(),
                                       first.ids.begin() + static_cast<std::ptrdiff_t>(common),
                                       chat.ids.begin(),
                                       chat.ids.end());
    common = std::min(static_cast<std::size_t>(differs.first - first.ids.begin()),
                      prompt_without_end(chat));
    const bool outlined = chat.patches.empty();
    PV_CHECK(chat.visual_positions == first.visual_positions && chat.grids == first.grids &&
                 (outlined || chat.patches == first.patches),
             "{}: sequences that share a prompt must be about the same picture",
             sequence.id);
  }
  PV_CHECK(common > 0 && (first.visual_positions.empty() ||
                          static_cast<std::size_t>(first.visual_positions.back()) < common),
           "{}: the sequences differ before the end of their picture and cannot share it",
           sequences.front().id);

  PackedBatch& batch = branched.batch;
  EncodedSample prefix = part_of(sequences.front(), 0, common);
  std::fill(prefix.chat.is_target.begin(), prefix.chat.is_target.end(), 0);
  prefix.chat.visual_positions = first.visual_positions;
  prefix.chat.grids = first.grids;
  prefix.chat.patches = first.patches;
  const auto parent = static_cast<std::int64_t>(batch.segment_lengths.size());
  append_sample(prefix, batch);
  branched.parents.push_back(-1);
  for (const EncodedSample& sequence : sequences) {
    const std::size_t begin = batch.position_ids.size();
    append_sample(part_of(sequence, common, sequence.chat.ids.size()), batch);
    for (std::size_t i = begin; i < batch.position_ids.size(); ++i)
      batch.position_ids[i] += static_cast<std::int64_t>(common);
    branched.parents.push_back(parent);
  }
}

WholeSequences whole_sequences(const BranchedBatch& branched) {
  const std::vector<std::int64_t>& lengths = branched.batch.segment_lengths;
  std::vector<std::int64_t> begins;
  std::int64_t tokens = 0;
  for (const std::int64_t length : lengths) {
    begins.push_back(tokens);
    tokens += length;
  }
  std::vector<bool> is_parent(lengths.size());
  for (const std::int64_t parent : branched.parents) {
    if (parent >= 0) is_parent[static_cast<std::size_t>(parent)] = true;
  }
  WholeSequences whole;
  whole.collapse.assign(static_cast<std::size_t>(tokens), -1);
  const auto add = [&](std::size_t segment) {
    for (std::int64_t i = 0; i < lengths[segment]; ++i) {
      std::int64_t& place = whole.collapse[static_cast<std::size_t>(begins[segment] + i)];
      if (place < 0) place = static_cast<std::int64_t>(whole.expand.size());
      whole.expand.push_back(begins[segment] + i);
    }
  };
  for (std::size_t segment = 0; segment < lengths.size(); ++segment) {
    if (is_parent[segment]) continue;
    const std::size_t before = whole.expand.size();
    const std::int64_t parent = branched.parents[segment];
    std::int64_t unread = 0;
    if (parent >= 0) {
      const bool seen = whole.collapse[static_cast<std::size_t>(begins[static_cast<std::size_t>(parent)])] >= 0;
      unread = seen ? lengths[static_cast<std::size_t>(parent)] : 0;
      add(static_cast<std::size_t>(parent));
    }
    add(segment);
    whole.lengths.push_back(static_cast<std::int64_t>(whole.expand.size() - before));
    whole.unread.push_back(unread);
  }
  return whole;
}

}  // namespace pocketvlm
