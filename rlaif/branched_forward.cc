#include "rlaif/branched_forward.h"

#include <algorithm>

namespace pocketvlm {

torch::Tensor branched_hidden_states(VisionLanguageModel& model,
                                     const BranchedBatch& branched,
                                     const Batch& batch,
                                     const torch::Tensor& rows) {
  const bool shares = std::any_of(branched.parents.begin(),
                                  branched.parents.end(),
                                  [](std::int64_t parent) { return parent >= 0; });
  const torch::Tensor visual =
      batch.patches.defined() ? model->encode_images(batch.patches, batch.grids) : torch::Tensor();
  const torch::Tensor embeddings = model->embed(batch, visual);
  if (!shares) return model->language->forward(embeddings, batch.position_ids, batch.segment_lengths, rows);
  const WholeSequences whole = whole_sequences(branched);
  const auto on_device = [&](const std::vector<std::int64_t>& values) {
    return torch::tensor(values, torch::kInt64).to(batch.input_ids.device());
  };
  const SharedPrefixes shared = {on_device(whole.expand), on_device(whole.collapse), whole.lengths, whole.unread};
  return model->language->forward(embeddings, batch.position_ids, shared, rows);
}

}  // namespace pocketvlm
