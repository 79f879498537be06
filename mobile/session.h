#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"
#include "mobile/linear.h"
#include "mobile/model.h"

namespace pocketvlm {

struct SessionOptions {
  int threads = 0;         // 0: one for each core this process may use
  int decode_threads = 0;  // of these, for single tokens, which wait for memory; 0: all
  // any: the system places threads | fastest: they stay on the fastest cores, as many as there are threads
  std::string affinity = "any";
  std::string kernels = "auto";  // the fastest this processor has; docs/phone.md names them all
  std::int64_t context = 0;  // tokens the KV cache can hold; 0: what the model says, at most 4096
  // f32 | f16 | q8_0; auto: f32 where all weights are F32/F16/BF16, f16 where they are quantized
  std::string kv_cache = "auto";
  // Where quantized weights are kept in the form the kernels read fastest: file (beside the model,
  // made on first use; memory where that is impossible) | memory (made by each session) | none
  // (read as they lie in the model's file)
  std::string packed = "file";
  std::string packed_folder;  // of these files; empty: beside the model's
  // Products and attention of the vision encoder: float | bf16: both in bfloat16, with AMX | int8: products in eight bits,
  // attention in bfloat16 where the kernels can. Answers differ a little, with bf16 less
  std::string vision = "float";
  // sequential: the vision file's pages leave memory before the decoder is touched | both: both
  // files are read into memory at once and stay there
  std::string resident = "sequential";
  PieceSizes pieces;
  std::int64_t prefill_tokens = 512;  // a prefill pass holds activations of so many tokens
};

/// How the next token is chosen.
struct MobileSampling {
  double temperature = 0.0;  // 0: greedy
  double top_p = 1.0;
  std::int64_t top_k = 0;           // 0: off
  double min_p = 0.0;               // drops tokens below min_p times the largest probability
  double repetition_penalty = 1.0;  // 1: off; over all tokens of prompt and answer
  std::int64_t max_new_tokens = 128;
  std::uint64_t seed = 0;
  // log-probs of the chosen tokens are told, and of so many of the likeliest beside each; none: not asked for
  std::optional<std::int64_t> top_logprobs = {};
};

/// What the model thought of one place of an answer: natural logarithms of probabilities over the whole vocabulary, before
/// temperature, penalties and cuts.
struct TokenLogProbs {
  struct Entry {
    std::int32_t id = 0;
    double log_prob = 0;
  };
  Entry chosen;
  std::vector<Entry> top;  // likeliest first; of equals the smaller id
};

struct ChatTimings {
  double load_ms = 0;    // of the session: mapping, checking, tokenizer
  double image_ms = 0;   // resize, slicing
  double vision_ms = 0;  // encoder and projector
  std::int64_t slices = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;  // of these, already in the KV cache from the call before
  double prefill_ms = 0;           // of the others
  std::int64_t generated_tokens = 0;
  double decode_ms = 0;
};

struct ChatAnswer {
  std::string text;
  std::vector<std::int32_t> ids;  // without the stop token
  bool stopped = false;           // a stop id came before max_new_tokens
  std::vector<TokenLogProbs> log_probs = {};  // one an id, where asked for
  ChatTimings timings;
};

/// A model ready to answer: language file, optional mmproj, tokenizer, prompt encoder, thread pool,
/// kernels, KV cache. Not thread-safe: one call at a time.
class Session {
 public:
  /// `mmproj_path` may be empty (text only). Throws Error naming the file at fault.
  Session(const std::string& model_path,
          const std::string& mmproj_path,
          const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Its encode() may be called from any thread, also while this session answers.
  const PromptEncoder& encoder() const;
  const MobileLanguageParams& language() const;
  const std::string& kernels() const;  // name of the variant in use
  int threads() const;
  int decode_threads() const;
  bool has_vision() const;  // an mmproj was given
  std::vector<std::string> packed_files() const;  // from which packed weights are mapped

  /// Answers the chat; `on_text` receives the answer piece by piece, always whole UTF-8 characters.
  /// Return false from it to stop early.
  ChatAnswer chat(const Chat& chat,
                  const MobileSampling& sampling,
                  const std::function<bool(std::string_view)>& on_text = {});

  /// The same from an already encoded prompt.
  ChatAnswer answer(const EncodedChat& prompt,
                    const MobileSampling& sampling,
                    const std::function<bool(std::string_view)>& on_text = {});

  /// The same, handing out ids.
  ChatAnswer generate(const EncodedChat& prompt,
                      const MobileSampling& sampling,
                      const std::function<bool(std::int32_t)>& on_token = {});

  /// Vision encoder and projector: [slices * num_queries, hidden], in the order of
  /// prompt.visual_positions, as the projector hands it to the decoder (MiniCPM: before
  /// scale_embeddings). Empty without slices.
  std::vector<float> encode_image(const EncodedChat& prompt);

  /// Vision encoder alone: [patches, vision hidden], what the projector reads.
  std::vector<float> encode_vision(const EncodedChat& prompt);

  /// Teacher forcing: logits of the positions from `first` on, [tokens - first, vocab]. `visual` may
  /// hold encode_image's result; empty: it is computed. The KV cache is empty before and after.
  std::vector<float> forward_logits(const EncodedChat& prompt,
                                    std::span<const float> visual = {},
                                    std::int64_t first = 0);

  /// From now on (until nullptr) adds up the squares of what the decoder's matrices read.
  void observe(InputSquares* squares);
  /// From now on (until an empty one) calls the watcher behind every block that runs.
  void watch_blocks(BlockWatcher watcher);

  /// The steps of generation for those who time or steer them: start over, append tokens (text
  /// only), read the logits of the last appended token [vocab].
  void reset();
  void append(std::span<const std::int32_t> ids);
  void append(const EncodedChat& prompt, std::span<const float> visual);
  std::span<const float> logits() const;
  std::int64_t position() const;  // tokens in the KV cache
  std::int64_t context() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Throws Error naming the value that is out of range.
void check_sampling(const MobileSampling& sampling);

/// Chooses the next token. `history` are the ids the repetition penalty looks at; `step` selects
/// the random draw, so the same seed gives the same answer.
std::int32_t sample_token(std::span<const float> logits,
                          std::span<const std::int32_t> history,
                          const MobileSampling& sampling,
                          std::uint64_t step);

/// Log-probs of `chosen` and of the `count` likeliest tokens.
TokenLogProbs token_log_probs(std::span<const float> logits, std::int32_t chosen, std::int64_t count);

}  // namespace pocketvlm
