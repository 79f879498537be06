#include "mobile/session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/random.h"
#include "mobile/answer_stream.h"
#include "mobile/cores.h"
#include "mobile/decoding.h"
#include "mobile/packed_weights.h"
#include "mobile/projection.h"
#include "mobile/vision.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kDefaultContext = 4096;

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::uint64_t hash_floats(std::span<const float> values, std::uint64_t seed) {
  std::uint64_t hash = mix_keys({seed, values.size()});
  for (const float value : values) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    hash = (hash ^ bits) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace

struct Session::State {
  State(const std::string& model_path,
        const std::string& mmproj_path,
        const SessionOptions& options)
      : language_file(model_path),
        params(read_language_params(language_file)),
        tokenizer(Tokenizer::load(model_path)),
        pool(options.threads, options.affinity == "fastest"),
        compute{pool, choose_kernels(options.kernels), options.pieces},
        vision_compute(compute),
        keeps_vision(options.resident == "both"),
        decode_threads(options.decode_threads > 0 ? options.decode_threads : pool.threads()),
        prefill_tokens(options.prefill_tokens),
        decoder(language_file, params) {
    PV_CHECK(prefill_tokens > 0 && options.pieces.stream > 0 && options.pieces.batch > 0,
             "prefill tokens and piece sizes must be positive");
    PV_CHECK(decode_threads <= pool.threads(),
             "{} threads for decoding, but only {} in all; raise --threads",
             decode_threads,
             pool.threads());
    PV_CHECK(options.affinity == "any" || options.affinity == "fastest",
             "threads cannot be placed on \"{}\" cores; choose any or fastest",
             options.affinity);
    PV_CHECK(keeps_vision || options.resident == "sequential",
             "models cannot be resident as \"{}\"; choose sequential or both",
             options.resident);
    PV_CHECK(!mmproj_path.empty() || (options.vision == "float" && !keeps_vision),
             "the vision precision and models that stay resident are settings of the vision file, and none "
             "was given; name one (--mmproj), or leave them out (--vision, --resident)");
    PV_CHECK(options.packed_folder.empty() || options.packed == "file",
             "a folder for packed weights is given, but they are kept in \"{}\"; leave out one of them "
             "(--packed-folder, --packed)",
             options.packed);
    pack_language(options);
    if (!mmproj_path.empty()) {
      bind_vision(mmproj_path);
      pack_vision(options);
    }
    const GgufFile* mmproj = mmproj_file ? &*mmproj_file : nullptr;
    encoder.emplace(tokenizer,
                    read_prompt_config(language_file, mmproj),
                    read_image_config(language_file, mmproj));
    PV_CHECK(tokenizer.size() <= params.vocab,
             "{}: the tokenizer has {} pieces, but the embedding only {} rows",
             model_path,
             tokenizer.size(),
             params.vocab);
    if (projector) check_fit(model_path);
    if (keeps_vision) make_resident(options);
    const std::int64_t context =
        options.context > 0 ? options.context : std::min(params.max_positions, kDefaultContext);
    PV_CHECK(context <= params.max_positions,
             "--context {} exceeds the {} positions that {} was made for",
             context,
             params.max_positions,
             model_path);
    cache = MobileKvCache(params, context, cache_type(options.kv_cache));
    stop_ids = encoder->stop_ids();
    if (tokenizer.vocabulary().eos_id >= 0) stop_ids.push_back(tokenizer.vocabulary().eos_id);
  }

  GgmlType cache_type(const std::string& name) const {
    if (name == "auto") return decoder.all_float() ? GgmlType::kF32 : GgmlType::kF16;
    if (name == "f32") return GgmlType::kF32;
    if (name == "f16") return GgmlType::kF16;
    if (name == "q8_0") return GgmlType::kQ8_0;
    fail("the KV cache type \"{}\" is unknown; choose auto, f32, f16 or q8_0", name);
  }

  static PackedWeights::Keep keep_of(const std::string& name) {
    PV_CHECK(name == "file" || name == "memory",
             "packed weights cannot be kept in \"{}\"; choose file, memory or none",
             name);
    return name == "file" ? PackedWeights::Keep::kFile : PackedWeights::Keep::kMemory;
  }

  static std::vector<const GgufTensor*> tensors_of(const GgufFile& file,
                                                   const std::vector<NamedLinear>& matrices) {
    std::vector<const GgufTensor*> tensors;
    for (const NamedLinear& matrix : matrices) tensors.push_back(&file.tensor(matrix.tensor));
    return tensors;
  }

  void pack_language(const SessionOptions& options) {
    if (options.packed == "none") return;
    const std::vector<NamedLinear> matrices = decoder.packable(compute.kernels);
    packed = PackedWeights(language_file,
                           tensors_of(language_file, matrices),
                           PackedWeights::Form::kExact,
                           keep_of(options.packed),
                           pool,
                           options.packed_folder);
    for (const auto& [tensor, linear] : matrices)
      linear->use_panels(packed.panels(language_file.tensor(tensor)));
  }

  void pack_vision(const SessionOptions& options) {
    if (options.vision == "float") return;
    PV_CHECK(options.vision == "bf16" || options.vision == "int8",
             "the vision precision \"{}\" is unknown; choose float, bf16 or int8",
             options.vision);
    vision_compute.bf16_attention = true;
    if (options.vision == "bf16") {
      PV_CHECK(compute.kernels.prompt_matmul_rows != nullptr,
               "vision in bf16 needs AMX, which the kernels \"{}\" do not use; choose float or int8",
               compute.kernels.name);
      vision_compute.bf16_products = true;
      return;
    }
    PV_CHECK(compute.kernels.matmul_int8 != nullptr,
             "vision in int8 needs AVX-512 VNNI or NEON, which the kernels \"{}\" do not use; choose "
             "float",
             compute.kernels.name);
    std::vector<NamedLinear> matrices = vision->matrices();
    for (const NamedLinear& matrix : projector->matrices()) matrices.push_back(matrix);
    packed_vision = PackedWeights(*mmproj_file,
                                  tensors_of(*mmproj_file, matrices),
                                  PackedWeights::Form::kInt8,
                                  keep_of(options.packed == "none" ? "memory" : options.packed),
                                  pool,
                                  options.packed_folder);
    for (const auto& [tensor, linear] : matrices)
      linear->use_int8_panels(packed_vision.panels(mmproj_file->tensor(tensor)));
  }

  void bind_vision(const std::string& mmproj_path) {
    mmproj_file.emplace(mmproj_path);
    vision.emplace(*mmproj_file, read_vision_params(*mmproj_file));
    projector.emplace(*mmproj_file, read_projector_params(*mmproj_file), vision->params().hidden);
  }

  void check_fit(const std::string& model_path) const {
    PV_CHECK(projector->params().hidden == params.hidden,
             "{}: its visual tokens have width {}, but {} takes {}; the two files do not belong "
             "together",
             mmproj_file->path(),
             projector->params().hidden,
             model_path,
             params.hidden);
    PV_CHECK(encoder->prompt().num_queries == projector->params().num_queries,
             "{}: the projector gives {} visual tokens a slice, but the prompt config says {}",
             mmproj_file->path(),
             projector->params().num_queries,
             encoder->prompt().num_queries);
    PV_CHECK(encoder->image().patch_size == vision->params().patch_size,
             "{}: patches of {} pixels, but the image config says {}",
             mmproj_file->path(),
             vision->params().patch_size,
             encoder->image().patch_size);
  }

  void require_vision(const EncodedChat& prompt) const {
    PV_CHECK(prompt.grids.empty() || vision.has_value(),
             "the conversation has an image, but no vision file was given; add --mmproj FILE");
  }

  // Reads the files that this session computes from, page by page; packed weights were read when
  // they were made.
  void make_resident(const SessionOptions& options) const {
    if (options.packed == "none") touch(language_file.file());
    if (mmproj_file && options.vision != "int8") touch(mmproj_file->file());
  }

  static void touch(const MappedFile& file) {
    constexpr std::size_t kPage = 4096;
    volatile std::byte seen{};
    for (std::size_t at = 0; at < file.size(); at += kPage) seen = file.data()[at];
    static_cast<void>(seen);
  }

  // The vision tower's pages and buffers are gone before the decoder is touched.
  void release_vision() const {
    if (keeps_vision) return;
    if (mmproj_file) mmproj_file->file().release(0, mmproj_file->size());
    packed_vision.release();
  }

  // `strip`: of the whole request, of which `prompt` may hold some slices.
  std::vector<float> run_vision(const EncodedChat& prompt, std::int64_t strip) {
    require_vision(prompt);
    if (prompt.grids.empty()) return {};
    const OnCores placed(pool.cores());
    pool.limit(pool.threads());
    return vision->forward(vision_compute, prompt.patches, prompt.grids, strip);
  }

  // Visual tokens slice by slice; slices seen in the last prompt are not computed again.
  std::vector<float> visual_tokens(const EncodedChat& prompt) {
    require_vision(prompt);
    const OnCores placed(pool.cores());
    if (prompt.grids.empty()) return {};
    const std::vector<std::uint64_t> hashes = slice_hashes(prompt);
    EncodedChat missing;
    std::vector<std::uint64_t> missing_hashes;
    std::size_t at = 0;
    for (std::size_t s = 0; s < hashes.size(); ++s) {
      const std::size_t count = slice_floats(prompt, s);
      const bool known = known_slices.count(hashes[s]) != 0 ||
                         std::find(missing_hashes.begin(), missing_hashes.end(), hashes[s]) !=
                             missing_hashes.end();
      if (!known) {
        missing.grids.push_back(prompt.grids[s]);
        missing.patches.insert(missing.patches.end(),
                               prompt.patches.begin() + static_cast<std::ptrdiff_t>(at),
                               prompt.patches.begin() + static_cast<std::ptrdiff_t>(at + count));
        missing_hashes.push_back(hashes[s]);
      }
      at += count;
    }
    if (!missing.grids.empty()) {
      const std::vector<float> features = run_vision(missing, vision->strip_length(prompt.grids));
      const std::vector<float> tokens = projector->forward(vision_compute, features, missing.grids);
      const std::size_t each = tokens.size() / missing.grids.size();
      for (std::size_t i = 0; i < missing_hashes.size(); ++i) {
        known_slices[missing_hashes[i]].assign(
            tokens.begin() + static_cast<std::ptrdiff_t>(i * each),
            tokens.begin() + static_cast<std::ptrdiff_t>((i + 1) * each));
      }
      release_vision();
    }
    std::vector<float> all;
    std::map<std::uint64_t, std::vector<float>> kept;
    for (const std::uint64_t hash : hashes) {
      const std::vector<float>& tokens = known_slices.at(hash);
      all.insert(all.end(), tokens.begin(), tokens.end());
      kept.emplace(hash, tokens);
    }
    known_slices = std::move(kept);
    return all;
  }

  std::size_t slice_floats(const EncodedChat& prompt, std::size_t slice) const {
    const auto patch = static_cast<std::size_t>(vision->params().patch_size);
    return static_cast<std::size_t>(prompt.grids[slice][0]) *
           static_cast<std::size_t>(prompt.grids[slice][1]) * 3 * patch * patch;
  }

  std::vector<std::uint64_t> slice_hashes(const EncodedChat& prompt) const {
    std::vector<std::uint64_t> hashes;
    const auto strip = static_cast<std::uint64_t>(vision->strip_length(prompt.grids));
    std::size_t at = 0;
    for (std::size_t s = 0; s < prompt.grids.size(); ++s) {
      const std::size_t count = slice_floats(prompt, s);
      PV_CHECK(at + count <= prompt.patches.size(),
               "the grids ask for more patches than were given");
      const auto rows = static_cast<std::uint64_t>(prompt.grids[s][0]);
      hashes.push_back(
          hash_floats(std::span(prompt.patches).subspan(at, count), mix_keys({rows, strip})));
      at += count;
    }
    return hashes;
  }

  // One key a token: equal keys at equal places mean equal keys and values in the cache.
  std::vector<std::uint64_t> token_keys(const EncodedChat& prompt) const {
    std::vector<std::uint64_t> keys;
    for (const std::int32_t id : prompt.ids) keys.push_back(static_cast<std::uint64_t>(id));
    if (prompt.grids.empty()) return keys;
    const std::vector<std::uint64_t> hashes = slice_hashes(prompt);
    const auto queries = static_cast<std::size_t>(projector->params().num_queries);
    for (std::size_t i = 0; i < prompt.visual_positions.size(); ++i) {
      keys[static_cast<std::size_t>(prompt.visual_positions[i])] =
          mix_keys({hashes[i / queries], i % queries});
    }
    return keys;
  }

  // Embeddings of ids [first, end): text rows, or visual tokens scaled like text, since files store
  // them divided.
  std::vector<float> embeddings(const EncodedChat& prompt,
                                std::span<const float> visual,
                                std::size_t first) const {
    const auto hidden = static_cast<std::size_t>(params.hidden);
    PV_CHECK(visual.size() == prompt.visual_positions.size() * hidden,
             "the prompt has places for {} visual tokens, but {} were given",
             prompt.visual_positions.size(),
             visual.size() / hidden);
    std::vector<float> x((prompt.ids.size() - first) * hidden);
    std::size_t next = 0;
    for (std::size_t i = 0; i < prompt.ids.size(); ++i) {
      const bool is_visual = next < prompt.visual_positions.size() &&
                             static_cast<std::size_t>(prompt.visual_positions[next]) == i;
      if (i >= first) {
        float* row = &x[(i - first) * hidden];
        if (is_visual) {
          for (std::size_t h = 0; h < hidden; ++h)
            row[h] = visual[next * hidden + h] * params.scale_embeddings;
        } else {
          decoder.embed(prompt.ids[i], row);
        }
      }
      if (is_visual) ++next;
    }
    return x;
  }

  // Runs embeddings in passes; `all_logits` collects logits of every token from `first` on, otherwise
  // only the last token's are kept.
  void run(std::vector<float> x, std::vector<float>* all_logits, std::int64_t first = 0) {
    const std::int64_t hidden = params.hidden;
    const auto tokens = static_cast<std::int64_t>(x.size()) / hidden;
    const auto position = static_cast<std::int64_t>(keys.size());
    PV_CHECK(position + tokens <= cache.context(),
             "{} tokens exceed the context of {}; shorten the conversation or raise --context",
             position + tokens,
             cache.context());
    reserve(position + tokens);
    const OnCores placed(pool.cores());
    // A token of an answer reads one row, whose page may stay.
    if (!keeps_vision && tokens > 1) decoder.release_embeddings();
    pool.limit(tokens == 1 ? decode_threads : pool.threads());
    // Passes of nearly one length: a few tokens that are left would be rounded as single ones are.
    const std::int64_t passes = (tokens + prefill_tokens - 1) / prefill_tokens;
    std::int64_t count = 0;
    for (std::int64_t begin = 0, pass = 0; pass < passes; begin += count, ++pass) {
      count = (tokens - begin) / (passes - pass);
      std::vector<float> part;
      if (count == tokens)
        part = std::move(x);
      else
        part.assign(x.begin() + begin * hidden, x.begin() + (begin + count) * hidden);
      const bool last = begin + count == tokens;
      // What the matrices read is measured on every token.
      const bool all = all_logits != nullptr || compute.squares != nullptr;
      decoder.forward(compute, cache, position + begin, all ? count : last ? 1 : 0, part);
      if (all_logits != nullptr) {
        const std::int64_t skipped = std::clamp<std::int64_t>(first - begin, 0, count);
        if (skipped == count) continue;
        const std::vector<float> logits =
            decoder.logits(compute, &part[static_cast<std::size_t>(skipped * hidden)], count - skipped);
        all_logits->insert(all_logits->end(), logits.begin(), logits.end());
      } else if (last) {
        last_logits = decoder.logits(compute, part.data() + part.size() - hidden, 1);
      }
    }
  }

  // Room for so many tokens in all. A cache that found no memory has lost its tokens.
  void reserve(std::int64_t tokens) {
    try {
      cache.reserve(tokens);
    } catch (const std::bad_alloc&) {
      keys.clear();
      throw;
    }
  }

  void append(std::span<const std::int32_t> ids) {
    if (ids.empty()) return;
    std::vector<float> x(ids.size() * static_cast<std::size_t>(params.hidden));
    for (std::size_t i = 0; i < ids.size(); ++i)
      decoder.embed(ids[i], &x[i * static_cast<std::size_t>(params.hidden)]);
    run(std::move(x), nullptr);
    for (const std::int32_t id : ids) keys.push_back(static_cast<std::uint64_t>(id));
  }

  // Keeps the part of the cache that the new prompt shares with what is in it, and runs the rest.
  // Returns how many tokens were kept.
  std::int64_t prefill(const EncodedChat& prompt, std::span<const float> visual) {
    const std::vector<std::uint64_t> wanted = token_keys(prompt);
    std::size_t shared = 0;
    // The last token always runs: its logits are wanted.
    while (shared + 1 < wanted.size() && shared < keys.size() && keys[shared] == wanted[shared])
      ++shared;
    keys.resize(shared);
    run(embeddings(prompt, visual, shared), nullptr);
    keys = wanted;
    return static_cast<std::int64_t>(shared);
  }

  GgufFile language_file;
  std::optional<GgufFile> mmproj_file;
  MobileLanguageParams params;
  Tokenizer tokenizer;
  ThreadPool pool;
  Compute compute;
  Compute vision_compute;
  bool keeps_vision;
  int decode_threads;
  std::int64_t prefill_tokens;
  MobileDecoder decoder;
  PackedWeights packed;
  PackedWeights packed_vision;
  std::optional<MobileVisionEncoder> vision;
  std::optional<MobileProjector> projector;
  std::optional<PromptEncoder> encoder;
  MobileKvCache cache;
  std::vector<std::uint64_t> keys;  // of the tokens in the cache
  std::vector<float> last_logits;
  std::map<std::uint64_t, std::vector<float>> known_slices;
  std::vector<std::int32_t> stop_ids;
  BlockWatcher watcher;
  double load_ms = 0;
  std::string kernels_name = compute.kernels.name;
};

Session::Session(const std::string& model_path,
                 const std::string& mmproj_path,
                 const SessionOptions& options) {
  const auto begin = Clock::now();
  state_ = std::make_unique<State>(model_path, mmproj_path, options);
  state_->load_ms = milliseconds_since(begin);
}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

void Session::observe(InputSquares* squares) { state_->compute.squares = squares; }

void Session::watch_blocks(BlockWatcher watcher) {
  state_->watcher = std::move(watcher);
  const BlockWatcher* used = state_->watcher ? &state_->watcher : nullptr;
  state_->compute.watcher = state_->vision_compute.watcher = used;
}

const PromptEncoder& Session::encoder() const { return *state_->encoder; }
const MobileLanguageParams& Session::language() const { return state_->params; }
const std::string& Session::kernels() const { return state_->kernels_name; }
int Session::threads() const { return state_->pool.threads(); }
int Session::decode_threads() const { return state_->decode_threads; }
std::vector<std::string> Session::packed_files() const {
  std::vector<std::string> files;
  for (const PackedWeights* packed : {&state_->packed, &state_->packed_vision}) {
    if (packed->from_file()) files.push_back(packed->path());
  }
  return files;
}
bool Session::has_vision() const { return state_->vision.has_value(); }

std::vector<float> Session::encode_vision(const EncodedChat& prompt) {
  const std::int64_t strip = state_->vision ? state_->vision->strip_length(prompt.grids) : 0;
  std::vector<float> features = state_->run_vision(prompt, strip);
  state_->release_vision();
  return features;
}

std::vector<float> Session::encode_image(const EncodedChat& prompt) {
  return state_->visual_tokens(prompt);
}

std::vector<float> Session::forward_logits(const EncodedChat& prompt,
                                           std::span<const float> visual,
                                           std::int64_t first) {
  reset();
  std::vector<float> computed;
  if (visual.empty()) {
    computed = state_->visual_tokens(prompt);
    visual = computed;
  }
  std::vector<float> logits;
  const auto tokens = static_cast<std::int64_t>(prompt.ids.size());
  PV_CHECK(first >= 0 && first <= tokens, "logits from position {} on of {} tokens", first, tokens);
  logits.reserve(static_cast<std::size_t>((tokens - first) * state_->params.vocab));
  state_->run(state_->embeddings(prompt, visual, 0), &logits, first);
  return logits;
}

void Session::reset() { state_->keys.clear(); }

void Session::append(std::span<const std::int32_t> ids) { state_->append(ids); }

void Session::append(const EncodedChat& prompt, std::span<const float> visual) {
  const std::vector<std::uint64_t> added = state_->token_keys(prompt);
  state_->run(state_->embeddings(prompt, visual, 0), nullptr);
  state_->keys.insert(state_->keys.end(), added.begin(), added.end());
}

std::span<const float> Session::logits() const { return state_->last_logits; }
std::int64_t Session::position() const { return static_cast<std::int64_t>(state_->keys.size()); }
std::int64_t Session::context() const { return state_->cache.context(); }

ChatAnswer Session::generate(const EncodedChat& prompt,
                             const MobileSampling& sampling,
                             const std::function<bool(std::int32_t)>& on_token) {
  State& state = *state_;
  PV_CHECK(!prompt.ids.empty(), "the prompt is empty");
  PV_CHECK(static_cast<std::int64_t>(prompt.ids.size()) < state.cache.context(),
           "the prompt has {} tokens, but the context holds {}; shorten it, use fewer slices or "
           "raise --context",
           prompt.ids.size(),
           state.cache.context());
  ChatAnswer answer;
  answer.timings.load_ms = state.load_ms;
  answer.timings.slices = static_cast<std::int64_t>(prompt.grids.size());
  answer.timings.prompt_tokens = static_cast<std::int64_t>(prompt.ids.size());

  auto begin = Clock::now();
  const std::vector<float> visual = state.visual_tokens(prompt);
  answer.timings.vision_ms = milliseconds_since(begin);

  begin = Clock::now();
  answer.timings.cached_tokens = state.prefill(prompt, visual);
  answer.timings.prefill_ms = milliseconds_since(begin);

  begin = Clock::now();
  std::vector<std::int32_t> history = prompt.ids;
  const auto choices = static_cast<std::size_t>(state.tokenizer.size());
  for (std::int64_t step = 0; step < sampling.max_new_tokens; ++step) {
    const std::span<const float> logits = std::span(state.last_logits).first(choices);
    const std::int32_t id =
        sample_token(logits, history, sampling, static_cast<std::uint64_t>(step));
    if (std::find(state.stop_ids.begin(), state.stop_ids.end(), id) != state.stop_ids.end()) {
      answer.stopped = true;
      break;
    }
    answer.ids.push_back(id);
    history.push_back(id);
    if (sampling.top_logprobs) answer.log_probs.push_back(token_log_probs(logits, id, *sampling.top_logprobs));
    if (on_token && !on_token(id)) break;
    const bool last = step + 1 == sampling.max_new_tokens;
    if (last || position() == state.cache.context()) break;
    state.append(std::span(&id, 1));
  }
  answer.timings.decode_ms = milliseconds_since(begin);
  answer.timings.generated_tokens = static_cast<std::int64_t>(answer.ids.size());
  answer.text = state.encoder->answer_text(answer.ids);
  return answer;
}

ChatAnswer Session::chat(const Chat& chat,
                         const MobileSampling& sampling,
                         const std::function<bool(std::string_view)>& on_text) {
  const auto begin = Clock::now();
  const EncodedChat prompt = state_->encoder->encode(chat, true);
  const double image_ms = milliseconds_since(begin);
  ChatAnswer answer = this->answer(prompt, sampling, on_text);
  answer.timings.image_ms = image_ms;
  return answer;
}

ChatAnswer Session::answer(const EncodedChat& prompt,
                           const MobileSampling& sampling,
                           const std::function<bool(std::string_view)>& on_text) {
  AnswerStream stream(*state_->encoder);
  bool wanted = true;
  ChatAnswer answer = generate(prompt, sampling, [&](std::int32_t id) {
    if (!on_text) return true;
    const std::string piece = stream.add(id);
    if (!piece.empty()) wanted = on_text(piece);
    return wanted;
  });
  // What is left was unfinished; nobody who asked to stop is called again.
  if (on_text && wanted) {
    const std::string rest = stream.finish();
    if (!rest.empty()) on_text(rest);
  }
  return answer;
}

}  // namespace pocketvlm
