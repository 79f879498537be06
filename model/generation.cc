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

std::vector<Sequence> start_sequences(const EncodedChat& prompt,
                                      const SamplingConfig& sampling,
                                      uint64_t prompt_key,
                                      int64_t max_positions) {
  std::unordered_set<std::int32_t> seen;
  if (sampling.repetition_penalty != 1.0) {
    // Visual places hold a filler id that is no part of the text.
    std::vector<bool> visual(prompt.ids.size(), false);
    for (const std::int32_t place : prompt.visual_positions) visual[static_cast<std::size_t>(place)] = true;
    for (std::size_t i = 0; i < visual.size(); ++i) {
      if (!visual[i]) seen.insert(prompt.ids[i]);
    }
  }
  const int64_t room = max_positions - static_cast<int64_t>(prompt.ids.size());
  std::vector<Sequence> sequences;
  for (int64_t s = 0; s < sampling.num_samples; ++s) {
    sequences.push_back({Random({sampling.seed, prompt_key, static_cast<uint64_t>(sampling.first_sample + s)}),
                         seen,
                         std::min(sampling.max_new_tokens, room),
                         {},
                         false});
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

/// The template's stop ids and those of the sampling.
std::vector<std::int32_t> all_stop_ids(const PromptEncoder& encoder, const SamplingConfig& sampling, int64_t vocab) {
  std::vector<std::int32_t> ids = encoder.stop_ids();
  for (const int64_t id : sampling.stop_ids) {
    PV_CHECK(id >= 0 && id < vocab, "generation: stop_ids holds {}, which is outside the vocabulary of {}", id, vocab);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

/// Continuous batching: the answers of several prompts are decoded together, an answer that ends leaves the batch at once, and
/// when all of a prompt have ended, the next prompt is read in its place.
class DecodingPool {
 public:
  DecodingPool(VisionLanguageModel& model,
               const PromptEncoder& encoder,
               std::span<const EncodedChat> prompts,
               const SamplingConfig& sampling,
               std::span<const uint64_t> prompt_keys,
               int64_t max_branches,
               const std::function<void(std::int32_t)>& on_token)
      : model_(model),
        encoder_(encoder),
        prompts_(prompts),
        sampling_(sampling),
        prompt_keys_(prompt_keys),
        on_token_(on_token),
        device_(device_of(model)),
        // Rows beyond the tokenizer's pieces are padding of the embedding and mean nothing.
        vocab_(std::min<int64_t>(model->config().language.vocab, encoder.tokenizer().size())),
        stop_ids_(all_stop_ids(encoder, sampling, vocab_)),
        running_at_(static_cast<std::size_t>(std::clamp<int64_t>(
            max_branches / sampling.num_samples, 1, static_cast<int64_t>(prompts.size())))),
        cache_(static_cast<int64_t>(running_at_.size()), sampling.num_samples, sampling.max_new_tokens) {
    PV_CHECK(sampling.max_repeats != 1, "generation: max_repeats is 1, which would cut every answer; give 2 or more, or 0");
  }

  /// prompt * samples + sample.
  std::vector<Generation> run() {
    read_prompts();
    while (!branches_.empty()) {
      std::vector<int64_t> ids, places;
      for (std::size_t row = 0; row < branches_.size(); ++row) {
        ids.push_back(branches_[row].next);
        places.push_back(branches_[row].place);
        branches_[row].row = static_cast<int64_t>(row);
      }
      draw(branches_,
           model_->logits(model_->language->decode(model_->language->embed(index_tensor(ids, device_)), cache_, places)));
      drop_finished(branches_);
      read_prompts();
    }
    std::vector<Generation> answers;
    for (Sequence& sequence : sequences_) {
      const std::string text = encoder_.answer_text(sequence.answer.ids);
      sequence.answer.text = text.substr(0, find_stop_text(text, sampling_.stop));
      answers.push_back(std::move(sequence.answer));
    }
    return answers;
  }

 private:
  /// An answer that is being decoded.
  struct Branch {
    std::size_t sequence;  // in sequences_
    int64_t place;         // in the cache
    int64_t row;           // of the logits that its next token is drawn from
    int64_t next = 0;      // the token drawn
  };

  /// The next prompts, as long as there are places where nothing runs.
  void read_prompts() {
    while (read_ < prompts_.size()) {
      std::vector<int64_t> free;
      for (std::size_t place = 0; place < running_at_.size(); ++place) {
        if (running_at_[place] == 0) free.push_back(static_cast<int64_t>(place));
      }
      if (free.empty()) return;
      free.resize(std::min(free.size(), prompts_.size() - read_));
      read_into(free);
    }
  }

  void read_into(const std::vector<int64_t>& free) {
    const std::span<const EncodedChat> prompts = prompts_.subspan(read_, free.size());
    const ModelConfig& config = model_->config();
    const Batch batch =
        to_batch(pack_prompts(prompts, config.projector.num_queries, config.language.max_positions), device_);
    std::vector<Branch> begun;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      for (Sequence& sequence :
           start_sequences(prompts[i], sampling_, prompt_keys_[read_ + i], config.language.max_positions)) {
        const auto sample = static_cast<int64_t>(begun.size()) % sampling_.num_samples;
        begun.push_back({sequences_.size(), free[i] * sampling_.num_samples + sample, static_cast<int64_t>(i)});
        sequences_.push_back(std::move(sequence));
      }
      running_at_[static_cast<std::size_t>(free[i])] = sampling_.num_samples;
    }
    read_ += prompts.size();
    draw(begun,
         model_->logits(model_->language->prefill_prompts(
             embed_prompts(model_, batch), batch.segment_lengths, cache_, free)));
    drop_finished(begun);
    branches_.insert(branches_.end(), begun.begin(), begun.end());
  }

  /// One token for each branch from its row of logits.
  void draw(std::vector<Branch>& branches, const torch::Tensor& logits) {
    const torch::Tensor rows = logits.to(torch::kCPU).contiguous();
    const float* values = rows.data_ptr<float>();
    const int64_t row_size = rows.size(1);
    const std::size_t told = sequences_.front().answer.ids.size();
    at::parallel_for(0, static_cast<int64_t>(branches.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Branch& branch = branches[static_cast<std::size_t>(i)];
        Sequence& sequence = sequences_[branch.sequence];
        const bool too_short = static_cast<int64_t>(sequence.answer.ids.size()) < sampling_.min_new_tokens;
        const SampledToken token =
            sample_token({values + branch.row * row_size, static_cast<std::size_t>(vocab_)},
                         sequence.seen,
                         sampling_,
                         sequence.random,
                         std::span(stop_ids_).first(too_short ? stop_ids_.size() : 0));
        branch.next = token.id;
        grow(sequence, token, sampling_, encoder_.tokenizer(), stop_ids_);
      }
    });
    const Generation& first = sequences_.front().answer;
    if (on_token_ && first.ids.size() > told) on_token_(first.ids.back());
  }

  void drop_finished(std::vector<Branch>& branches) {
    std::erase_if(branches, [this](const Branch& branch) {
      const bool done = sequences_[branch.sequence].done;
      if (done) --running_at_[static_cast<std::size_t>(branch.place / sampling_.num_samples)];
      return done;
    });
  }

  VisionLanguageModel& model_;
  const PromptEncoder& encoder_;
  std::span<const EncodedChat> prompts_;
  const SamplingConfig& sampling_;
  std::span<const uint64_t> prompt_keys_;
  const std::function<void(std::int32_t)>& on_token_;
  torch::Device device_;
  int64_t vocab_;
  std::vector<std::int32_t> stop_ids_;
  std::vector<int64_t> running_at_;  // answers still growing in each place of the cache
  KvCache cache_;
  std::size_t read_ = 0;             // prompts
  std::vector<Sequence> sequences_;  // of the prompts read
  std::vector<Branch> branches_;     // answers still growing
};

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
  return DecodingPool(model, encoder, {&prompt, 1}, sampling, {&prompt_key, 1}, sampling.num_samples, on_token).run();
}

std::vector<Generation> generate_batch(VisionLanguageModel& model,
                                       const PromptEncoder& encoder,
                                       const std::vector<EncodedChat>& prompts,
                                       const SamplingConfig& sampling,
                                       const std::vector<uint64_t>& prompt_keys,
                                       int64_t max_branches) {
  PV_CHECK(prompt_keys.empty() || prompt_keys.size() == prompts.size(),
           "generation: {} prompt keys for {} prompts; give one each or none",
           prompt_keys.size(),
           prompts.size());
  const torch::NoGradGuard no_grad;
  const EvalMode eval(model);
  const CachedWeights cached;
  const std::vector<uint64_t> keys = prompt_keys.empty() ? std::vector<uint64_t>(prompts.size(), 0) : prompt_keys;
  if (prompts.empty()) return {};
  return DecodingPool(model, encoder, prompts, sampling, keys, max_branches, {}).run();
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
