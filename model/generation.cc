#include "model/generation.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "model/checkpoint.h"
#include "model/sampler.h"

namespace pocketvlm {
namespace {

/// Sequences decoded together: beyond this, batching gains little and the cache grows.
constexpr int64_t kMaxSequences = 128;
/// Tokens of one packed prefill in judging.
constexpr int64_t kMaxPrefillTokens = 16384;

class EvalMode {
 public:
  explicit EvalMode(VisionLanguageModel& model) : model_(model), was_training_(model->is_training()) {
    model_->eval();
  }
  ~EvalMode() { model_->train(was_training_); }
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;

 private:
  VisionLanguageModel& model_;
  bool was_training_;
};

uint64_t patches_key(const EncodedChat& chat) {
  uint64_t key = chat.patches.size();
  for (const float value : chat.patches) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    key = (key ^ bits) * 0x9e3779b97f4a7c15ULL;
    key ^= key >> 31;
  }
  return key;
}

/// Prompts packed one after the other. Prompts with the same picture share its encoding: all claims about one answer,
/// all questions about one scene.
PackedBatch pack_prompts(std::span<const EncodedChat> prompts, int64_t num_queries, int64_t max_positions) {
  PackedBatch batch;
  std::map<uint64_t, std::vector<std::pair<const EncodedChat*, int64_t>>> encoded;  // first projector row of a picture
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const EncodedChat& prompt = prompts[p];
    const auto length = static_cast<int64_t>(prompt.ids.size());
    const int64_t slices = static_cast<int64_t>(prompt.grids.size());
    PV_CHECK(length > 0, "generation: prompt {} is empty; it needs one token at least", p);
    PV_CHECK(length < max_positions,
             "generation: prompt {} has {} tokens; language.max_positions = {} leaves no room for an answer",
             p,
             length,
             max_positions);
    PV_CHECK(static_cast<int64_t>(prompt.visual_positions.size()) == slices * num_queries,
             "generation: prompt {} has {} places for visual tokens but {} slices of {} tokens; encode it with the "
             "model's own prompt config",
             p,
             prompt.visual_positions.size(),
             slices,
             num_queries);
    const auto offset = static_cast<int64_t>(batch.input_ids.size());
    for (int64_t i = 0; i < length; ++i) {
      batch.input_ids.push_back(prompt.ids[static_cast<std::size_t>(i)]);
      batch.position_ids.push_back(i);
    }
    batch.segment_lengths.push_back(length);
    if (slices == 0) continue;
    int64_t first_row = -1;
    auto& same_key = encoded[patches_key(prompt)];
    for (const auto& [chat, row] : same_key) {
      if (chat->grids == prompt.grids && chat->patches == prompt.patches) first_row = row;
    }
    if (first_row < 0) {
      first_row = static_cast<int64_t>(batch.grids.size()) * num_queries;
      for (const auto& grid : prompt.grids) batch.grids.push_back({grid[0], grid[1]});
      batch.patches.insert(batch.patches.end(), prompt.patches.begin(), prompt.patches.end());
      same_key.emplace_back(&prompt, first_row);
    }
    for (std::size_t i = 0; i < prompt.visual_positions.size(); ++i) {
      batch.visual_positions.push_back(offset + prompt.visual_positions[i]);
      batch.visual_rows.push_back(first_row + static_cast<int64_t>(i));
    }
  }
  batch.labels.assign(batch.input_ids.size(), -100);
  batch.loss_weights.assign(batch.input_ids.size(), 0.0F);
  return batch;
}

torch::Device device_of(VisionLanguageModel& model) { return model->language->output_weight().device(); }

torch::Tensor index_tensor(const std::vector<int64_t>& values, torch::Device device) {
  return torch::tensor(values, torch::kInt64).to(device);
}

/// Rows of the last token of each segment.
torch::Tensor last_rows(const std::vector<int64_t>& lengths, torch::Device device) {
  std::vector<int64_t> rows;
  int64_t end = 0;
  for (const int64_t length : lengths) rows.push_back((end += length) - 1);
  return index_tensor(rows, device);
}

torch::Tensor embed_prompts(VisionLanguageModel& model, const Batch& batch) {
  torch::Tensor visual;
  if (batch.patches.defined()) {
    visual = model->encode_images(batch.patches, batch.grids);
    release_mapped_weights(*model->vision_encoder);  // before the decoder's come into memory
  }
  return model->embed(batch, visual);
}

/// One answer while it grows.
struct Sequence {
  Random random;
  std::unordered_set<std::int32_t> seen;  // filled only when the repetition penalty is on
  int64_t limit;                          // new tokens at most
  Generation answer;
  bool done = false;
};

struct Decoding {
  std::vector<Sequence> sequences;  // prompt * samples + sample
  std::vector<int64_t> active;      // prompts still in the cache, in its order
};

std::vector<Sequence> start_sequences(std::span<const EncodedChat> prompts,
                                      const SamplingConfig& sampling,
                                      std::span<const uint64_t> prompt_keys,
                                      int64_t max_positions) {
  std::vector<Sequence> sequences;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    std::unordered_set<std::int32_t> seen;
    if (sampling.repetition_penalty != 1.0) {
      // Visual places hold a filler id that is no part of the text.
      std::vector<bool> visual(prompts[p].ids.size(), false);
      for (const std::int32_t place : prompts[p].visual_positions) visual[static_cast<std::size_t>(place)] = true;
      for (std::size_t i = 0; i < visual.size(); ++i) {
        if (!visual[i]) seen.insert(prompts[p].ids[i]);
      }
    }
    const int64_t room = max_positions - static_cast<int64_t>(prompts[p].ids.size());
    for (int64_t s = 0; s < sampling.num_samples; ++s) {
      sequences.push_back({Random({sampling.seed, prompt_keys[p], static_cast<uint64_t>(sampling.first_sample + s)}),
                           seen,
                           std::min(sampling.max_new_tokens, room),
                           {},
                           false});
    }
  }
  return sequences;
}

/// Whether the ids end with one piece `times` times in a row.
bool ends_in_repeats(const std::vector<std::int32_t>& ids, int64_t times) {
  constexpr int64_t kLongestPiece = 64;
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t piece = 1; piece <= std::min(kLongestPiece, count / times); ++piece) {
    const auto begin = ids.end() - piece * times;
    if (std::equal(begin + piece, ids.end(), begin)) return true;
  }
  return false;
}

/// The place of the first stop text in an answer, npos without one.
std::size_t find_stop_text(const std::string& text, const std::vector<std::string>& stop) {
  std::size_t first = std::string::npos;
  for (const std::string& wanted : stop) first = std::min(first, text.find(wanted));
  return first;
}

/// Adds a drawn token to an answer and ends it where one of the rules says so.
void grow(Sequence& sequence,
          const SampledToken& token,
          const SamplingConfig& sampling,
          const Tokenizer& tokenizer,
          const std::vector<std::int32_t>& stop_ids) {
  Generation& answer = sequence.answer;
  if (std::find(stop_ids.begin(), stop_ids.end(), token.id) != stop_ids.end()) {
    answer.stopped = sequence.done = true;
    return;
  }
  answer.ids.push_back(token.id);
  answer.log_probs.push_back(token.log_prob);
  if (sampling.repetition_penalty != 1.0) sequence.seen.insert(token.id);
  const auto length = static_cast<int64_t>(answer.ids.size());
  if (!sampling.stop.empty() && length >= sampling.min_new_tokens) {
    answer.stopped = find_stop_text(tokenizer.decode(answer.ids), sampling.stop) != std::string::npos;
  }
  answer.repeated = sampling.max_repeats > 1 && ends_in_repeats(answer.ids, sampling.max_repeats);
  sequence.done = answer.stopped || answer.repeated || length >= sequence.limit;
}

/// Draws one token for every sequence of the cache from its row of logits; returns the ids to feed next.
std::vector<int64_t> draw(Decoding& decoding,
                          const torch::Tensor& logits,
                          const SamplingConfig& sampling,
                          int64_t vocab,
                          const Tokenizer& tokenizer,
                          const std::vector<std::int32_t>& stop_ids) {
  const torch::Tensor rows = logits.to(torch::kCPU).contiguous();
  const float* values = rows.data_ptr<float>();
  const int64_t row_size = rows.size(1);
  const int64_t samples = sampling.num_samples;
  std::vector<int64_t> next(decoding.active.size() * static_cast<std::size_t>(samples), 0);
  at::parallel_for(0, static_cast<int64_t>(next.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t prompt = decoding.active[static_cast<std::size_t>(i / samples)];
      Sequence& sequence = decoding.sequences[static_cast<std::size_t>(prompt * samples + i % samples)];
      if (sequence.done) continue;  // its place in the batch runs on, unread
      const bool too_short = static_cast<int64_t>(sequence.answer.ids.size()) < sampling.min_new_tokens;
      const SampledToken token = sample_token({values + i * row_size, static_cast<std::size_t>(vocab)},
                                              sequence.seen,
                                              sampling,
                                              sequence.random,
                                              std::span(stop_ids).first(too_short ? stop_ids.size() : 0));
      next[static_cast<std::size_t>(i)] = token.id;
      grow(sequence, token, sampling, tokenizer, stop_ids);
    }
  });
  return next;
}

/// Drops prompts whose answers are all done once they are a quarter of the batch.
void drop_finished(Decoding& decoding, int64_t samples, KvCache& cache, std::vector<int64_t>& next) {
  std::vector<int64_t> kept, kept_prompts, kept_next;
  for (std::size_t a = 0; a < decoding.active.size(); ++a) {
    bool open = false;
    for (int64_t s = 0; s < samples; ++s) {
      open = open || !decoding.sequences[static_cast<std::size_t>(decoding.active[a] * samples + s)].done;
    }
    if (!open) continue;
    kept.push_back(static_cast<int64_t>(a));
    kept_prompts.push_back(decoding.active[a]);
    for (int64_t s = 0; s < samples; ++s) {
      kept_next.push_back(next[a * static_cast<std::size_t>(samples) + static_cast<std::size_t>(s)]);
    }
  }
  if (kept.size() * 4 > decoding.active.size() * 3) return;
  if (!kept.empty()) cache.keep(kept);
  decoding.active = std::move(kept_prompts);
  next = std::move(kept_next);
}

bool all_done(const Decoding& decoding) {
  return std::all_of(
      decoding.sequences.begin(), decoding.sequences.end(), [](const Sequence& s) { return s.done; });
}

/// The template's stop ids and those of the sampling.
std::vector<std::int32_t> all_stop_ids(const PromptEncoder& encoder, const SamplingConfig& sampling, int64_t vocab) {
  std::vector<std::int32_t> ids = encoder.stop_ids();
  for (const int64_t id : sampling.stop_ids) {
    PV_CHECK(id >= 0 && id < vocab, "generation: stop_ids holds {}, which is outside the vocabulary of {}", id, vocab);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

/// Answers to prompts that fit into one decode batch.
std::vector<Generation> generate_together(VisionLanguageModel& model,
                                          const PromptEncoder& encoder,
                                          std::span<const EncodedChat> prompts,
                                          const SamplingConfig& sampling,
                                          std::span<const uint64_t> prompt_keys,
                                          const std::function<void(std::int32_t)>& on_token) {
  PV_CHECK(sampling.max_repeats != 1, "generation: max_repeats is 1, which would cut every answer; give 2 or more, or 0");
  const ModelConfig& config = model->config();
  const torch::Device device = device_of(model);
  // Rows beyond the tokenizer's pieces are padding of the embedding and mean nothing.
  const int64_t vocab = std::min<int64_t>(config.language.vocab, encoder.tokenizer().size());
  const std::vector<std::int32_t> stop_ids = all_stop_ids(encoder, sampling, vocab);
  const Batch batch = to_batch(
      pack_prompts(prompts, config.projector.num_queries, config.language.max_positions), device);

  Decoding decoding;
  decoding.sequences = start_sequences(prompts, sampling, prompt_keys, config.language.max_positions);
  for (std::size_t p = 0; p < prompts.size(); ++p) decoding.active.push_back(static_cast<int64_t>(p));
  KvCache cache;
  const torch::Tensor prefilled = model->language->prefill_prompts(
      embed_prompts(model, batch), batch.segment_lengths, cache, sampling.num_samples, sampling.max_new_tokens);
  torch::Tensor logits = model->logits(prefilled).repeat_interleave(sampling.num_samples, 0);
  while (true) {
    const std::size_t told = decoding.sequences.front().answer.ids.size();
    std::vector<int64_t> next = draw(decoding, logits, sampling, vocab, encoder.tokenizer(), stop_ids);
    const Generation& first = decoding.sequences.front().answer;
    if (on_token && first.ids.size() > told) on_token(first.ids.back());
    if (all_done(decoding)) break;
    drop_finished(decoding, sampling.num_samples, cache, next);
    logits = model->logits(model->language->decode(model->language->embed(index_tensor(next, device)), cache));
  }
  std::vector<Generation> answers;
  for (Sequence& sequence : decoding.sequences) {
    const std::string text = encoder.answer_text(sequence.answer.ids);
    sequence.answer.text = text.substr(0, find_stop_text(text, sampling.stop));
    answers.push_back(std::move(sequence.answer));
  }
  return answers;
}

}  // namespace

std::vector<Generation> generate(VisionLanguageModel& model,
                                 const PromptEncoder& encoder,
                                 const EncodedChat& prompt,
                                 const SamplingConfig& sampling,
                                 uint64_t prompt_key,
                                 const std::function<void(std::int32_t)>& on_token) {
  const torch::NoGradGuard no_grad;
  const EvalMode eval(model);
  const CachedWeights cached;
  return generate_together(model, encoder, {&prompt, 1}, sampling, {&prompt_key, 1}, on_token);
}

std::vector<Generation> generate_batch(VisionLanguageModel& model,
                                       const PromptEncoder& encoder,
                                       const std::vector<EncodedChat>& prompts,
                                       const SamplingConfig& sampling,
                                       const std::vector<uint64_t>& prompt_keys) {
  PV_CHECK(prompt_keys.empty() || prompt_keys.size() == prompts.size(),
           "generation: {} prompt keys for {} prompts; give one each or none",
           prompt_keys.size(),
           prompts.size());
  const torch::NoGradGuard no_grad;
  const EvalMode eval(model);
  const CachedWeights cached;
  const std::vector<uint64_t> keys = prompt_keys.empty() ? std::vector<uint64_t>(prompts.size(), 0) : prompt_keys;
  const auto at_once = static_cast<std::size_t>(std::max<int64_t>(1, kMaxSequences / sampling.num_samples));
  std::vector<Generation> answers;
  for (std::size_t begin = 0; begin < prompts.size(); begin += at_once) {
    const std::size_t count = std::min(at_once, prompts.size() - begin);
    auto part = generate_together(
        model, encoder, {&prompts[begin], count}, sampling, {&keys[begin], count}, {});
    std::move(part.begin(), part.end(), std::back_inserter(answers));
  }
  return answers;
}

std::vector<std::vector<double>> first_token_log_probs(VisionLanguageModel& model,
                                                       const std::vector<EncodedChat>& prompts,
                                                       const std::vector<std::int32_t>& candidates) {
  const torch::NoGradGuard no_grad;
  const EvalMode eval(model);
  const CachedWeights cached;
  const ModelConfig& config = model->config();
  for (const std::int32_t id : candidates) {
    PV_CHECK(id >= 0 && id < config.language.vocab,
             "first_token_log_probs: candidate id {} is outside the vocabulary of {}",
             id,
             config.language.vocab);
  }
  const torch::Device device = device_of(model);
  const torch::Tensor columns =
      index_tensor(std::vector<int64_t>(candidates.begin(), candidates.end()), device);
  std::vector<std::vector<double>> results;
  std::size_t begin = 0;
  while (begin < prompts.size()) {
    std::size_t end = begin;
    int64_t tokens = 0;
    while (end < prompts.size() && (end == begin || tokens + static_cast<int64_t>(prompts[end].ids.size()) <=
                                                        kMaxPrefillTokens)) {
      tokens += static_cast<int64_t>(prompts[end++].ids.size());
    }
    const Batch batch = to_batch(
        pack_prompts({&prompts[begin], end - begin}, config.projector.num_queries, config.language.max_positions),
        device);
    const torch::Tensor hidden = model->language->forward(embed_prompts(model, batch),
                                                          batch.position_ids,
                                                          batch.segment_lengths,
                                                          last_rows(batch.segment_lengths, device));
    const torch::Tensor log_probs =
        torch::log_softmax(model->logits(hidden), 1)
            .index_select(1, columns)
            .to(torch::kCPU, torch::kFloat64)
            .contiguous();
    const double* values = log_probs.data_ptr<double>();
    for (std::size_t i = 0; i < end - begin; ++i) {
      const double* row = values + i * candidates.size();
      results.emplace_back(row, row + candidates.size());
    }
    begin = end;
  }
  return results;
}

}  // namespace pocketvlm
