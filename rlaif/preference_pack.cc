#include "rlaif/preference_pack.h"

#include <ATen/ops/stack.h>

#include <utility>

#include "rlaif/shared_pack.h"

namespace pocketvlm {
namespace {

EncodedSample encode_answer(const PreferencePair& pair,
                            const std::string& answer,
                            const Image& image,
                            const PromptEncoder& encoder) {
  Chat chat;
  chat.turns = {{"user", pair.question}, {"assistant", answer}};
  chat.images.push_back(image);
  EncodedSample sample;
  sample.id = pair.prompt_id;
  sample.task = "preference";
  sample.chat = encoder.encode(chat, false);
  return sample;
}

}  // namespace

EncodedPair encode_pair(const PreferencePair& pair,
                        const Image& image,
                        const PromptEncoder& encoder) {
  return {encode_answer(pair, pair.chosen, image, encoder),
          encode_answer(pair, pair.rejected, image, encoder)};
}

std::vector<PackedBatch> pack_pairs(std::vector<EncodedPair> pairs, std::int64_t pack_tokens) {
  std::vector<PackedBatch> packs;
  for (EncodedPair& pair : pairs) {
    const std::int64_t tokens = pair.chosen.num_tokens() + pair.rejected.num_tokens();
    if (packs.empty() || packs.back().num_tokens() + tokens > pack_tokens) packs.emplace_back();
    PackedBatch& pack = packs.back();
    const std::size_t first = pack.visual_rows.size();
    append_sample(pair.chosen, pack);
    const auto num_rows = static_cast<std::int64_t>(pack.visual_rows.size() - first);
    append_sharing_picture(
        std::move(pair.rejected), num_rows > 0 ? pack.visual_rows[first] : 0, num_rows, pack);
  }
  return packs;
}

std::vector<PairPack> make_packs(const std::vector<PreferencePair>& pairs,
                                 const std::vector<std::size_t>& indices,
                                 const PictureReader& picture,
                                 const PromptEncoder& encoder,
                                 std::int64_t pack_tokens) {
  std::vector<EncodedPair> encoded;
  for (const std::size_t index : indices) {
    encoded.push_back(encode_pair(pairs[index], picture(pairs[index].index), encoder));
  }
  std::vector<PairPack> packs;
  auto next = indices.begin();
  for (PackedBatch& batch : pack_pairs(std::move(encoded), pack_tokens)) {
    const auto count = static_cast<std::ptrdiff_t>(batch.segment_lengths.size() / 2);
    packs.push_back({std::move(batch), {next, next + count}});
    next += count;
  }
  return packs;
}

torch::Tensor segment_log_probs(VisionLanguageModel& model,
                                const PackedBatch& pack,
                                torch::Device device) {
  const Batch batch = to_batch(pack, device);
  const torch::Tensor log_probs = model->target_log_probs(batch, model->hidden_states(batch));
  std::vector<torch::Tensor> sums;
  for (const torch::Tensor& segment : log_probs.split_with_sizes(targets_per_segment(pack)))
    sums.push_back(segment.sum());
  return at::stack(sums);
}

}  // namespace pocketvlm
