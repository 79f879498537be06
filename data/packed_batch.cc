#include "data/packed_batch.h"

#include <algorithm>

#include "base/error.h"

namespace pocketvlm {

std::int64_t PackedBatch::num_targets() const {
  return std::count_if(
      labels.begin(), labels.end(), [](std::int64_t label) { return label != kNotATarget; });
}

void append_sample(const EncodedSample& sample, PackedBatch& batch) {
  const EncodedChat& chat = sample.chat;
  const std::size_t tokens = chat.ids.size();
  const std::size_t slices = chat.grids.size();
  PV_CHECK(tokens > 0 && chat.is_target.size() == tokens,
           "sample \"{}\": {} ids and {} target marks; they must be equally many and not none",
           sample.id,
           tokens,
           chat.is_target.size());
  PV_CHECK(slices == 0 ? chat.visual_positions.empty() : chat.visual_positions.size() % slices == 0,
           "sample \"{}\": {} visual tokens do not divide among {} slices",
           sample.id,
           chat.visual_positions.size(),
           slices);

  const auto first_token = static_cast<std::int64_t>(batch.input_ids.size());
  const std::vector<std::int32_t> labels = labels_of(chat);
  for (std::size_t i = 0; i < tokens; ++i) {
    batch.input_ids.push_back(chat.ids[i]);
    batch.position_ids.push_back(static_cast<std::int64_t>(i));
    batch.labels.push_back(labels[i]);
    batch.loss_weights.push_back(labels[i] != kNotATarget ? sample.weight : 0.0F);
  }
  if (slices > 0) {
    const std::size_t queries = chat.visual_positions.size() / slices;
    // Rows are counted by slices that exist, not by rows in use: segments may share a picture.
    auto row = static_cast<std::int64_t>(batch.grids.size() * queries);
    for (const std::int32_t position : chat.visual_positions) {
      PV_CHECK(position >= 0 && static_cast<std::size_t>(position) < tokens,
               "sample \"{}\": the visual place {} lies outside its {} tokens",
               sample.id,
               position,
               tokens);
      batch.visual_positions.push_back(first_token + position);
      batch.visual_rows.push_back(row++);
    }
    for (const auto& [rows, columns] : chat.grids) batch.grids.push_back({rows, columns});
    batch.patches.insert(batch.patches.end(), chat.patches.begin(), chat.patches.end());
  }
  batch.segment_lengths.push_back(static_cast<std::int64_t>(tokens));
  batch.segment_slices.push_back(static_cast<std::int64_t>(slices));
  batch.sample_ids.push_back(sample.id);
  batch.num_images += sample.num_images;
}

}  // namespace pocketvlm
