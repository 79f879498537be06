#include "data/packed_loader.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "base/log.h"
#include "data/best_fit.h"
#include "data/conversation_record.h"
#include "data/prefetcher.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMostSkippedListed = 1000;
constexpr std::int64_t kMostSkippedLogged = 5;
constexpr std::int64_t kHopeless = 1000;  // a source with so many bad samples in a row is given up

/// What became of one global position.
struct Outcome {
  std::int64_t position = 0;
  int source = 0;
  EncodedSample sample;
  std::optional<SkippedSample> skipped;
};

std::vector<std::unique_ptr<SampleSource>> open_sources(const LoaderConfig& config,
                                                        const ImageConfig& image) {
  std::vector<std::unique_ptr<SampleSource>> sources;
  const DecodeOptions decode{image.max_megapixels, image.exif == "apply"};
  for (const SourceConfig& source : config.sources) sources.push_back(open_source(source, decode));
  return sources;
}

Mixture make_mixture(const LoaderConfig& config,
                     const std::vector<std::unique_ptr<SampleSource>>& sources) {
  PV_CHECK(sources.size() == config.sources.size(),
           "{} sources are open for {} entries of data.sources",
           sources.size(),
           config.sources.size());
  std::vector<double> weights;
  std::vector<std::int64_t> sizes;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    weights.push_back(config.sources[s].weight);
    sizes.push_back(sources[s]->size());
  }
  return Mixture(weights, std::move(sizes), config.seed);
}

}  // namespace

void LoaderConfig::validate(const std::string& path) const {
  PV_CHECK(!sources.empty(), "{}.sources: is empty; name at least one source", path);
  PV_CHECK(std::any_of(sources.begin(),
                       sources.end(),
                       [](const SourceConfig& source) { return source.weight > 0; }),
           "{}.sources: every weight is 0; give one source a weight above 0",
           path);
  PV_CHECK(max_tokens <= batch_tokens,
           "{}.max_tokens: {} exceeds batch_tokens = {}; a sample is never split over packs",
           path,
           max_tokens,
           batch_tokens);
}

void LoaderState::validate(const std::string& path) const {
  const std::set<std::int64_t> distinct(pending.begin(), pending.end());
  PV_CHECK(distinct.size() == pending.size(), "{}.pending: names a position twice", path);
  PV_CHECK(distinct.empty() || (*distinct.begin() >= 0 && *distinct.rbegin() < next_position),
           "{}.pending: names a position outside 0 .. next_position - 1 = {}",
           path,
           next_position - 1);
}

Json LoaderState::to_json() const { return config_to_json(*this); }

LoaderState LoaderState::from_json(const Json& json, const std::string& where) {
  return read_config<LoaderState>(json, where);
}

EncodedSample encode_sample(const Sample& sample, const PromptEncoder& encoder) {
  const auto& turns = sample.chat.turns;
  const bool is_document =
      turns.size() == 1 && turns.front().role == "assistant" && sample.chat.images.empty();
  EncodedSample encoded;
  encoded.id = sample.id;
  encoded.task = sample.task;
  encoded.chat =
      is_document ? encoder.encode_text(turns.front().content) : encoder.encode(sample.chat, false);
  return encoded;
}

struct PackedLoader::State {
  State(const LoaderConfig& loader_config,
        std::vector<std::unique_ptr<SampleSource>> open,
        const PromptEncoder& prompt_encoder,
        int loader_rank,
        int loader_num_ranks);

  struct Job {
    std::int64_t position;
    MixturePlace place;
  };

  LoaderConfig config;
  const PromptEncoder& encoder;
  int rank;
  int num_ranks;
  std::vector<std::unique_ptr<SampleSource>> sources;
  Mixture mixture;

  // Reading: positions become jobs in order; a restored loader first reads its pending positions
  // again.
  std::deque<std::int64_t> to_read_again;
  std::int64_t next_unread = 0;

  // Packing: what was taken from the jobs, in order.
  std::deque<Outcome> window;
  std::deque<std::int64_t> restored;  // pending positions that are not in the window again yet
  std::int64_t next_position = 0;     // the first position that never was in the window
  int packs_of_others = 0;            // packs of this round that follow ours and are not formed yet

  std::int64_t num_samples = 0;
  std::int64_t num_skipped = 0;
  std::vector<std::int64_t> failures;  // of each source, in a row
  std::vector<SkippedSample> skipped;
  std::set<std::pair<std::string, std::string>> skipped_places;
  std::int64_t usable_samples = 0, usable_tokens = 0;  // of this process, for the mean length

  // The last member: its threads use the others and end before they go.
  Prefetcher<Job, Outcome> prefetcher;

  Job next_job();
  Outcome read(const Job& job) const;
  std::size_t samples_ahead() const;
  void fill_window();
  void note_skipped(const Outcome& outcome);
  void form_pack(PackedBatch* batch);
  std::int64_t take(std::size_t place, PackedBatch* batch);
  void finish_round();
};

PackedLoader::State::State(const LoaderConfig& loader_config,
                           std::vector<std::unique_ptr<SampleSource>> open,
                           const PromptEncoder& prompt_encoder,
                           int loader_rank,
                           int loader_num_ranks)
    : config(loader_config),
      encoder(prompt_encoder),
      rank(loader_rank),
      num_ranks(loader_num_ranks),
      sources(std::move(open)),
      mixture(make_mixture(config, sources)),
      failures(sources.size(), 0),
      prefetcher(
          static_cast<int>(config.workers),
          [this] { return next_job(); },
          [this](const Job& job) { return read(job); }) {
  config.validate("data");
  PV_CHECK(num_ranks > 0 && rank >= 0 && rank < num_ranks,
           "rank {} of {} ranks does not exist",
           rank,
           num_ranks);
}

PackedLoader::State::Job PackedLoader::State::next_job() {
  std::int64_t position = 0;
  if (to_read_again.empty()) {
    position = next_unread++;
  } else {
    position = to_read_again.front();
    to_read_again.pop_front();
  }
  return {position, mixture.place(position)};
}

/// Everything that costs time: drawing or decoding, slicing, tokenizing. Runs on the workers.
Outcome PackedLoader::State::read(const Job& job) const {
  const SampleSource& source = *sources[static_cast<std::size_t>(job.place.source)];
  Outcome outcome;
  outcome.position = job.position;
  outcome.source = job.place.source;
  const auto skip = [&](const std::string& reason) {
    outcome.skipped = SkippedSample{source.name(), source.place(job.place.index), reason};
  };
  try {
    const Sample sample = source.at(job.place.index);
    check_has_answer(sample, {source.name(), source.place(job.place.index)});
    outcome.sample = encode_sample(sample, encoder);
    const auto& is_target = outcome.sample.chat.is_target;
    // The first token of a segment has nothing before it that could predict it.
    const bool teaches = is_target.size() > 1 &&
                         std::find(is_target.begin() + 1, is_target.end(), 1) != is_target.end();
    if (outcome.sample.num_tokens() > config.max_tokens) {
      skip(fmt::format("too long: {} tokens exceed max_tokens = {}",
                       outcome.sample.num_tokens(),
                       config.max_tokens));
    } else if (!teaches) {
      skip("no answer: no token of the sample is to be learned");
    }
  } catch (const DamagedSample& e) {
    outcome.skipped = SkippedSample{e.file(), e.place(), e.reason() + ": " + e.detail()};
  } catch (const Error& e) {
    skip(e.what());
  }
  return outcome;
}

/// About one pack's worth, so that the next pack is ready when the last one was used; more would
/// only cost memory.
std::size_t PackedLoader::State::samples_ahead() const {
  if (usable_samples == 0) return static_cast<std::size_t>(config.look_ahead);
  const std::int64_t mean = std::max<std::int64_t>(1, usable_tokens / usable_samples);
  return static_cast<std::size_t>(config.batch_tokens * 5 / 4 / mean + config.workers);
}

void PackedLoader::State::fill_window() {
  while (static_cast<std::int64_t>(window.size()) < config.look_ahead || !restored.empty()) {
    Outcome outcome = prefetcher.next(samples_ahead());
    if (restored.empty()) {
      next_position = outcome.position + 1;
    } else {
      restored.pop_front();
    }
    if (outcome.skipped) {
      note_skipped(outcome);
    } else {
      failures[static_cast<std::size_t>(outcome.source)] = 0;
      ++usable_samples;
      usable_tokens += outcome.sample.num_tokens();
      window.push_back(std::move(outcome));
    }
  }
}

void PackedLoader::State::note_skipped(const Outcome& outcome) {
  const SkippedSample& sample = *outcome.skipped;
  ++num_skipped;
  const bool is_new = skipped_places.size() < kMostSkippedListed &&
                      skipped_places.emplace(sample.source, sample.place).second;
  if (is_new) {
    skipped.push_back(sample);
    if (num_skipped <= kMostSkippedLogged) {
      spdlog::warn("skipped {}: {}: {}", sample.source, sample.place, sample.reason);
      if (num_skipped == kMostSkippedLogged)
        spdlog::warn("further skipped samples are counted and listed, not logged");
    }
  }
  const auto s = static_cast<std::size_t>(outcome.source);
  // Were one sample of n usable, at most 2 n - 2 could fail in a row: the last of one epoch, the
  // first of the next.
  const std::int64_t size = sources[s]->size();
  const std::int64_t limit = size < kHopeless ? 2 * size - 1 : kHopeless;
  PV_CHECK(++failures[s] < std::min(limit, kHopeless),
           "{}: no usable sample among {} in a row; the last one: {}: {}",
           sample.source,
           failures[s],
           sample.place,
           sample.reason);
}

/// Moves a sample from the window into the pack; returns its tokens.
std::int64_t PackedLoader::State::take(std::size_t place, PackedBatch* batch) {
  const auto item = window.begin() + static_cast<std::ptrdiff_t>(place);
  const std::int64_t tokens = item->sample.num_tokens();
  if (batch != nullptr) append_sample(item->sample, *batch);
  window.erase(item);
  ++num_samples;
  return tokens;
}

/// First samples in order, as long as there is much room: no sample waits for ever, and short ones
/// do not gather. Then the rest of the room is filled with the best choice from the window.
void PackedLoader::State::form_pack(PackedBatch* batch) {
  std::int64_t room = config.batch_tokens;
  fill_window();
  room -= take(0, batch);
  while (true) {
    fill_window();
    std::int64_t waiting = 0;
    for (const Outcome& outcome : window) waiting += outcome.sample.num_tokens();
    // A choice needs several samples to combine and several times as many to choose from.
    const std::int64_t reserve = std::min(config.batch_tokens / 2, waiting / 4);
    if (room - window.front().sample.num_tokens() < reserve) break;
    room -= take(0, batch);
  }
  std::vector<std::int64_t> lengths;
  for (const Outcome& outcome : window) lengths.push_back(outcome.sample.num_tokens());
  const std::vector<std::size_t> chosen = best_fit(lengths, room);
  for (std::size_t i = 0; i < chosen.size(); ++i) take(chosen[i] - i, batch);
}

/// Forms the packs of the other ranks that follow ours, so that every rank stands at the same
/// place.
void PackedLoader::State::finish_round() {
  for (; packs_of_others > 0; --packs_of_others) form_pack(nullptr);
}

PackedLoader::PackedLoader(const LoaderConfig& config,
                           const PromptEncoder& encoder,
                           int rank,
                           int num_ranks)
    : PackedLoader(config, open_sources(config, encoder.image()), encoder, rank, num_ranks) {}

PackedLoader::PackedLoader(const LoaderConfig& config,
                           std::vector<std::unique_ptr<SampleSource>> sources,
                           const PromptEncoder& encoder,
                           int rank,
                           int num_ranks)
    : state_(std::make_unique<State>(config, std::move(sources), encoder, rank, num_ranks)) {}

PackedLoader::~PackedLoader() = default;

PackedBatch PackedLoader::next() {
  state_->finish_round();
  for (int other = 0; other < state_->rank; ++other) state_->form_pack(nullptr);
  PackedBatch batch;
  state_->form_pack(&batch);
  state_->packs_of_others = state_->num_ranks - 1 - state_->rank;
  return batch;
}

LoaderState PackedLoader::state() const {
  state_->finish_round();
  LoaderState state;
  state.next_position = state_->next_position;
  for (const Outcome& outcome : state_->window) state.pending.push_back(outcome.position);
  state.pending.insert(state.pending.end(), state_->restored.begin(), state_->restored.end());
  state.num_samples = state_->num_samples;
  state.num_skipped = state_->num_skipped;
  state.order = state_->mixture.fingerprint();
  return state;
}

void PackedLoader::restore(const LoaderState& state) {
  state.validate("loader state");
  const std::string order = state_->mixture.fingerprint();
  PV_CHECK(state.order.empty() || state.order == order,
           "the data are not those that this run began with: order {} now, {} in its checkpoint; "
           "seed, weights and the "
           "number of samples of every source must be the same",
           order,
           state.order);
  state_->prefetcher.clear();
  state_->window.clear();
  state_->restored.assign(state.pending.begin(), state.pending.end());
  state_->to_read_again = state_->restored;
  state_->next_position = state_->next_unread = state.next_position;
  state_->packs_of_others = 0;
  state_->num_samples = state.num_samples;
  state_->num_skipped = state.num_skipped;
  std::fill(state_->failures.begin(), state_->failures.end(), 0);
}

std::vector<SkippedSample> PackedLoader::skipped() const { return state_->skipped; }
std::int64_t PackedLoader::num_skipped() const { return state_->num_skipped; }
std::int64_t PackedLoader::num_samples() const { return state_->num_samples; }

}  // namespace pocketvlm
