#include "rlaif/preference_pack.h"

#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <utility>

#include "rlaif/branched_forward.h"
#include "rlaif/token_weights.h"

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

std::vector<std::int32_t> target_ids(const EncodedSample& sample) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < sample.chat.ids.size(); ++i) {
    if (sample.chat.is_target[i] != 0) ids.push_back(sample.chat.ids[i]);
  }
  return ids;
}

// Puts the weights on the targets of a pack's last two segments.
void weigh_targets(const TokenWeights& weights, PackedBatch& batch) {
  std::size_t token = batch.labels.size();
  for (const auto* of : {&weights.rejected, &weights.chosen}) {
    for (std::size_t i = of->size(); i-- > 0;) {
      while (batch.labels[--token] < 0) {
      }
      batch.loss_weights[token] = (*of)[i];
    }
  }
}

bool is_there(const EncodedSample& answer) { return answer.num_tokens() > 0; }

void append_pair(EncodedPair pair, const PreferenceConfig& config, BranchedBatch& branched) {
  PackedBatch& batch = branched.batch;
  if (!is_there(pair.chosen) || !is_there(pair.rejected)) {
    append_sample(is_there(pair.chosen) ? pair.chosen : pair.rejected, batch);
    branched.parents.push_back(-1);
    return;
  }
  const TokenWeights weights =
      token_weights(target_ids(pair.chosen), target_ids(pair.rejected), config);
  if (config.share_prompt) {
    std::vector<EncodedSample> sequences;
    sequences.push_back(std::move(pair.chosen));
    sequences.push_back(std::move(pair.rejected));
    append_branches(std::move(sequences), branched);
  } else {
    const std::size_t first = batch.visual_rows.size();
    append_sample(pair.chosen, batch);
    const auto num_rows = static_cast<std::int64_t>(batch.visual_rows.size() - first);
    append_sharing_picture(
        std::move(pair.rejected), num_rows > 0 ? batch.visual_rows[first] : 0, num_rows, batch);
    branched.parents.insert(branched.parents.end(), 2, -1);
  }
  weigh_targets(weights, batch);
}

}  // namespace

EncodedPair encode_pair(const PreferencePair& pair,
                        const Image& image,
                        const PromptEncoder& encoder) {
  if (pair.single) {
    EncodedSample only = encode_answer(pair, pair.completion(), image, encoder);
    return pair.is_desirable() ? EncodedPair{std::move(only), {}} : EncodedPair{{}, std::move(only)};
  }
  return {encode_answer(pair, pair.chosen, image, encoder),
          encode_answer(pair, pair.rejected, Image::outline(image.width, image.height), encoder)};
}

std::vector<PairPack> pack_pairs(std::vector<EncodedPair> pairs, const PreferenceConfig& config) {
  std::vector<PairPack> packs;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const std::int64_t tokens = pairs[i].chosen.num_tokens() + pairs[i].rejected.num_tokens();
    if (packs.empty() || packs.back().batch().num_tokens() + tokens > config.pack_tokens)
      packs.emplace_back();
    packs.back().has_answer.push_back(is_there(pairs[i].chosen));
    packs.back().has_answer.push_back(is_there(pairs[i].rejected));
    append_pair(std::move(pairs[i]), config, packs.back().branched);
    packs.back().pairs.push_back(i);
  }
  return packs;
}

std::vector<PairPack> make_packs(const std::vector<PreferencePair>& pairs,
                                 const std::vector<std::size_t>& indices,
                                 const PictureReader& picture,
                                 const PromptEncoder& encoder,
                                 const PreferenceConfig& config) {
  std::vector<EncodedPair> encoded;
  for (const std::size_t index : indices) {
    encoded.push_back(encode_pair(pairs[index], picture(pairs[index].index), encoder));
  }
  std::vector<PairPack> packs = pack_pairs(std::move(encoded), config);
  for (PairPack& pack : packs) {
    for (std::size_t& place : pack.pairs) place = indices[place];
  }
  return packs;
}

PackLogProbs pack_log_probs(VisionLanguageModel& model,
                            const PairPack& pack,
                            const PreferenceConfig& config,
                            torch::Device device) {
  const Batch batch = to_batch(pack.batch(), device);
  const torch::Tensor log_probs =
      model->target_log_probs(batch, branched_hidden_states(model, pack.branched, batch, target_rows(batch)));
  std::vector<std::int64_t> targets;
  for (const std::int64_t count : targets_per_segment(pack.batch())) {
    if (count > 0) targets.push_back(count);  // the shared beginnings have none
  }
  const auto sums_of = [&](const torch::Tensor& values) {
    const std::vector<torch::Tensor> segments = values.split_with_sizes(targets);
    auto next = segments.begin();
    std::vector<torch::Tensor> sums;
    for (const bool has : pack.has_answer) sums.push_back(has ? (next++)->sum() : torch::zeros({}, values.options()));
    return at::stack(sums).view({-1, 2});
  };
  std::vector<std::int64_t> tokens;
  auto next = targets.begin();
  for (const bool has : pack.has_answer) tokens.push_back(has ? *next++ : 0);
  PackLogProbs result;
  result.tokens = torch::tensor(tokens, torch::kInt64).to(device, torch::kFloat32).view({-1, 2});
  result.plain = sums_of(log_probs);
  result.sums = result.plain;
  const bool weighted = config.changed_token_weight != 1.0 || config.length_tail_weight != 1.0;
  torch::Tensor weight_sums = result.tokens;
  if (weighted) {
    const torch::Tensor weights =
        batch.loss_weights.index_select(0, (batch.labels >= 0).nonzero().squeeze(1));
    result.sums = sums_of(log_probs * weights);
    weight_sums = sums_of(weights);
  }
  if (config.mean_over_tokens) result.sums = result.sums / at::where(result.tokens > 0, weight_sums, torch::ones_like(weight_sums));
  return result;
}

}  // namespace pocketvlm
