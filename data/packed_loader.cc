#include "data/packed_loader.h"

#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include "base/log.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMostSkippedListed = 1000;
constexpr std::size_t kMostSkippedLogged = 5;

std::vector<std::unique_ptr<SampleSource>> open_sources(const LoaderConfig& config,
                                                        const ImageConfig& image,
                                                        int rank) {
  std::vector<std::unique_ptr<SampleSource>> sources;
  const DecodeOptions decode{image.max_megapixels, image.exif == "apply"};
  const IndexOptions index{true, rank == 0, config.index_folder, config.index_min_mb << 20};
  for (const SourceConfig& source : config.sources) sources.push_back(open_source(source, decode, index));
  return sources;
}

/// Which samples were left out: the first 1000 places, each once. The first few are logged.
class SkippedList {
 public:
  /// Returns whether the sample was listed now.
  bool add(const SkippedSample& sample) {
    const bool is_new = places_.size() < kMostSkippedListed &&
                        places_.emplace(sample.source, sample.place).second;
    if (!is_new) return false;
    samples_.push_back(sample);
    if (samples_.size() > kMostSkippedLogged) return true;
    spdlog::warn("skipped {}: {}: {}", sample.source, sample.place, sample.reason);
    if (samples_.size() == kMostSkippedLogged)
      spdlog::warn("further skipped samples are counted and listed, not logged");
    return true;
  }
  const std::vector<SkippedSample>& samples() const { return samples_; }

 private:
  std::vector<SkippedSample> samples_;
  std::set<std::pair<std::string, std::string>> places_;
};

/// One pack of every rank (of some of them, at the end of a step), of which the own one is being read.
struct Round {
  std::vector<Pending<SampleOutcome>> own;
  std::vector<SkippedSample> skipped;  // refused while the round was planned
  LoaderState after;
  std::exception_ptr failure;  // of planning; thrown when the round is asked for
};

}  // namespace

struct PackedLoader::State {
  State(const LoaderConfig& loader_config,
        std::vector<std::unique_ptr<SampleSource>> open,
        const PromptEncoder& encoder,
        int loader_rank,
        int loader_num_ranks,
        std::int64_t loader_packs_per_step);
  ~State() { pool.stop(); }  // its threads use the other members

  LoaderConfig config;
  int rank;
  int num_ranks;
  std::int64_t packs_per_step;
  std::vector<std::unique_ptr<SampleSource>> sources;
  SampleReader reader;
  WorkerPool pool;
  PackPlanner planner;

  std::deque<Round> rounds;  // planned and not handed out
  std::int64_t planned_in_step = 0;  // packs
  LoaderState now;           // after the last one that was
  SkippedList skipped;
  std::vector<SkippedSample> damaged;  // of these, by this rank while decoding
  std::int64_t num_damaged = 0;
  std::vector<std::int64_t> failures;  // of each source, in a row: pictures that this rank decoded

  void plan_round();
  PackedBatch next();
  void note_damaged(const SampleOutcome& outcome);
};

PackedLoader::State::State(const LoaderConfig& loader_config,
                           std::vector<std::unique_ptr<SampleSource>> open,
                           const PromptEncoder& encoder,
                           int loader_rank,
                           int loader_num_ranks,
                           std::int64_t loader_packs_per_step)
    : config(loader_config),
      rank(loader_rank),
      num_ranks(loader_num_ranks),
      packs_per_step(loader_packs_per_step == 0 ? loader_num_ranks : loader_packs_per_step),
      sources(std::move(open)),
      reader(sources, encoder, config),
      pool(static_cast<int>(config.workers)),
      planner(config, sources, reader, pool, num_ranks),
      now(planner.state()),
      failures(sources.size(), 0) {
  config.validate("data");
  PV_CHECK(num_ranks > 0 && rank >= 0 && rank < num_ranks,
           "rank {} of {} ranks does not exist",
           rank,
           num_ranks);
}

/// Decides a pack of every rank that has one left in the step, and has the own one read.
void PackedLoader::State::plan_round() {
  Round round;
  try {
    const std::int64_t packs = std::min<std::int64_t>(num_ranks, packs_per_step - planned_in_step);
    planned_in_step = (planned_in_step + packs) % packs_per_step;
    for (std::int64_t pack = 0; pack < packs; ++pack) {
      std::vector<SampleOutcome> samples = planner.next_pack();
      if (pack != rank) continue;
      for (SampleOutcome& sample : samples) {
        round.own.push_back(pool.start(
            WorkerPool::Urgency::kSoon,
            [this, sample = std::move(sample)]() mutable { return reader.read(std::move(sample)); }));
      }
    }
    round.after = planner.state();
  } catch (...) {
    round.failure = std::current_exception();
  }
  round.skipped = planner.take_skipped();
  rounds.push_back(std::move(round));
}

PackedBatch PackedLoader::State::next() {
  const std::size_t wanted = pool.has_threads() ? 2 : 1;  // this one, and one that is read meanwhile
  while (rounds.size() < wanted && (rounds.empty() || !rounds.back().failure)) plan_round();
  for (const SkippedSample& sample : rounds.front().skipped) skipped.add(sample);
  if (rounds.front().failure) std::rethrow_exception(rounds.front().failure);
  Round round = std::move(rounds.front());
  rounds.pop_front();
  PackedBatch batch;
  for (Pending<SampleOutcome>& pending : round.own) {
    SampleOutcome outcome = pending.get();
    if (outcome.skipped) {
      note_damaged(outcome);
    } else {
      outcome.sample.id += reader.name_suffix(outcome.place);
      append_sample(outcome.sample, batch);
      if (!outcome.sample.chat.grids.empty())
        failures[static_cast<std::size_t>(outcome.place.source)] = 0;
    }
  }
  now = std::move(round.after);
  return batch;
}

void PackedLoader::State::note_damaged(const SampleOutcome& outcome) {
  ++num_damaged;
  if (skipped.add(*outcome.skipped)) damaged.push_back(*outcome.skipped);
  std::int64_t& in_a_row = failures[static_cast<std::size_t>(outcome.place.source)];
  PV_CHECK(++in_a_row < kHopeless,
           "{}: no picture could be decoded among {} in a row; the last one: {}: {}",
           outcome.skipped->source,
           in_a_row,
           outcome.skipped->place,
           outcome.skipped->reason);
}

PackedLoader::PackedLoader(const LoaderConfig& config,
                           const PromptEncoder& encoder,
                           int rank,
                           int num_ranks,
                           std::int64_t packs_per_step)
    : PackedLoader(config,
                   open_sources(config, encoder.image(), rank),
                   encoder,
                   rank,
                   num_ranks,
                   packs_per_step) {}

PackedLoader::PackedLoader(const LoaderConfig& config,
                           std::vector<std::unique_ptr<SampleSource>> sources,
                           const PromptEncoder& encoder,
                           int rank,
                           int num_ranks,
                           std::int64_t packs_per_step)
    : state_(std::make_unique<State>(
          config, std::move(sources), encoder, rank, num_ranks, packs_per_step)) {}

PackedLoader::~PackedLoader() = default;

PackedBatch PackedLoader::next() { return state_->next(); }

LoaderState PackedLoader::state() const { return state_->now; }

void PackedLoader::restore(const LoaderState& state) {
  state_->planner.restore(state);
  state_->rounds.clear();
  state_->planned_in_step = 0;
  state_->now = state_->planner.state();
  state_->num_damaged = 0;
  std::fill(state_->failures.begin(), state_->failures.end(), 0);
}

const std::vector<SkippedSample>& PackedLoader::skipped() const {
  return state_->skipped.samples();
}
const std::vector<SkippedSample>& PackedLoader::damaged() const {
  return state_->damaged;
}
std::int64_t PackedLoader::num_damaged() const { return state_->num_damaged; }
std::int64_t PackedLoader::num_skipped() const {
  return state_->now.num_skipped + state_->num_damaged;
}
std::int64_t PackedLoader::num_samples() const {
  return state_->now.num_samples - state_->num_damaged;
}

}  // namespace pocketvlm
