#include "data/pack_planner.h"

#include <algorithm>
#include <set>
#include <utility>

#include "data/best_fit.h"
#include "data/split_text.h"

namespace pocketvlm {
namespace {

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

void LoaderState::validate(const std::string& path) const {
  PV_CHECK(pieces.empty() || pieces.size() == pending.size(),
           "{}.pieces: {} of them for {} pending samples",
           path,
           pieces.size(),
           pending.size());
  std::set<std::pair<std::int64_t, std::int64_t>> distinct;
  for (std::size_t i = 0; i < pending.size(); ++i) {
    PV_CHECK(distinct.emplace(pending[i], pieces.empty() ? 0 : pieces[i]).second,
             "{}.pending: names a position twice",
             path);
  }
  PV_CHECK(distinct.empty() ||
               (distinct.begin()->first >= 0 && distinct.rbegin()->first < next_position),
           "{}.pending: names a position outside 0 .. next_position - 1 = {}",
           path,
           next_position - 1);
}

Json LoaderState::to_json() const { return config_to_json(*this); }

LoaderState LoaderState::from_json(const Json& json, const std::string& where) {
  return read_config<LoaderState>(json, where);
}

PackPlanner::PackPlanner(const LoaderConfig& config,
                         const SampleReader::Sources& sources,
                         const SampleReader& reader,
                         WorkerPool& pool,
                         std::int64_t packs_ahead)
    : config_(config),
      sources_(sources),
      packs_ahead_(packs_ahead),
      mixture_(make_mixture(config, sources)),
      measured_(
          pool,
          [this] { return next_job(); },
          [&reader](const Job& job) { return reader.measure(job.position, job.place); }),
      failures_(sources.size(), 0) {}

PackPlanner::Job PackPlanner::next_job() {
  std::int64_t position = 0;
  if (to_measure_again_.empty()) {
    position = next_unmeasured_++;
  } else {
    position = to_measure_again_.front();
    to_measure_again_.pop_front();
  }
  return {position, mixture_.place(position)};
}

/// What the next packs need, so that they can be planned at once; more would only cost memory.
std::size_t PackPlanner::samples_ahead() const {
  if (usable_samples_ == 0) return static_cast<std::size_t>(config_.look_ahead);
  const std::int64_t mean = std::max<std::int64_t>(1, usable_tokens_ / usable_samples_);
  return static_cast<std::size_t>(packs_ahead_ * config_.batch_tokens * 5 / 4 / mean +
                                  config_.workers);
}

void PackPlanner::fill_window() {
  // The pieces of a text count as one: many of the same length leave best fit no choice.
  std::int64_t waiting = 0, last = -1;
  for (const SampleOutcome& outcome : window_) {
    waiting += outcome.position != std::exchange(last, outcome.position) ? 1 : 0;
  }
  while (waiting < config_.look_ahead || !restored_.empty()) {
    SampleOutcome outcome = measured_.next(samples_ahead());
    const bool again = !restored_.empty();
    if (!again) next_position_ = outcome.position + 1;
    if (outcome.skipped) {
      note_skipped(outcome);
      while (!restored_.empty() && restored_.front().position == outcome.position) restored_.pop_front();
    } else {
      failures_[static_cast<std::size_t>(outcome.place.source)] = 0;
      ++usable_samples_;
      usable_tokens_ += outcome.sample.num_tokens();
      append_to_window(std::move(outcome), again);
      ++waiting;
    }
  }
}

/// `again`: the position was in the window before; only the pieces that still wait come back.
void PackPlanner::append_to_window(SampleOutcome outcome, bool again) {
  std::vector<EncodedSample> pieces = split_text(std::move(outcome.sample), config_.max_tokens);
  const auto append = [&](std::int64_t piece) {
    window_.push_back({outcome.position,
                       outcome.place,
                       piece,
                       std::move(pieces[static_cast<std::size_t>(piece)]),
                       std::nullopt});
  };
  const auto count = static_cast<std::int64_t>(pieces.size());
  if (!again) {
    if (count > 1) ++num_split_;
    for (std::int64_t piece = 0; piece < count; ++piece) append(piece);
    return;
  }
  for (; !restored_.empty() && restored_.front().position == outcome.position; restored_.pop_front()) {
    PV_CHECK(restored_.front().piece < count,
             "{}: {} is split into {} pieces now, its checkpoint waits for piece {}; the data have changed",
             sources_[static_cast<std::size_t>(outcome.place.source)]->name(),
             sources_[static_cast<std::size_t>(outcome.place.source)]->place(outcome.place.index),
             count,
             restored_.front().piece + 1);
    append(restored_.front().piece);
  }
}

void PackPlanner::note_skipped(const SampleOutcome& outcome) {
  const SkippedSample& sample = *outcome.skipped;
  ++num_skipped_;
  skipped_.push_back(sample);
  const auto s = static_cast<std::size_t>(outcome.place.source);
  // Were one sample of n usable, at most 2 n - 2 could fail in a row: the last of one epoch, the
  // first of the next.
  const std::int64_t size = sources_[s]->size();
  const std::int64_t limit = size < kHopeless ? 2 * size - 1 : kHopeless;
  PV_CHECK(++failures_[s] < std::min(limit, kHopeless),
           "{}: no usable sample among {} in a row; the last one: {}: {}",
           sample.source,
           failures_[s],
           sample.place,
           sample.reason);
}

/// Moves a sample from the window into the pack; returns its tokens.
std::int64_t PackPlanner::take(std::size_t place, std::vector<SampleOutcome>& pack) {
  const auto item = window_.begin() + static_cast<std::ptrdiff_t>(place);
  const std::int64_t tokens = item->sample.num_tokens();
  pack.push_back(std::move(*item));
  window_.erase(item);
  ++num_samples_;
  return tokens;
}

/// First samples in order, as long as there is much room: no sample waits for ever, and short ones
/// do not gather. Then the rest of the room is filled with the best choice from the window.
std::vector<SampleOutcome> PackPlanner::next_pack() {
  std::vector<SampleOutcome> pack;
  std::int64_t room = config_.batch_tokens;
  fill_window();
  room -= take(0, pack);
  while (true) {
    fill_window();
    std::int64_t waiting = 0;
    for (const SampleOutcome& outcome : window_) waiting += outcome.sample.num_tokens();
    // A choice needs several samples to combine and several times as many to choose from.
    const std::int64_t reserve = std::min(config_.batch_tokens / 2, waiting / 4);
    if (room - window_.front().sample.num_tokens() < reserve) break;
    room -= take(0, pack);
  }
  std::vector<std::int64_t> lengths;
  for (const SampleOutcome& outcome : window_) lengths.push_back(outcome.sample.num_tokens());
  const std::vector<std::size_t> chosen = best_fit(lengths, room);
  for (std::size_t i = 0; i < chosen.size(); ++i) take(chosen[i] - i, pack);
  return pack;
}

LoaderState PackPlanner::state() const {
  LoaderState state;
  state.next_position = next_position_;
  const auto add = [&](std::int64_t position, std::int64_t piece) {
    state.pending.push_back(position);
    state.pieces.push_back(piece);
  };
  for (const SampleOutcome& outcome : window_) add(outcome.position, outcome.piece);
  for (const Place& place : restored_) add(place.position, place.piece);
  if (std::count(state.pieces.begin(), state.pieces.end(), 0) ==
      static_cast<std::ptrdiff_t>(state.pieces.size()))
    state.pieces.clear();
  state.num_samples = num_samples_;
  state.num_skipped = num_skipped_;
  state.num_split = num_split_;
  state.order = mixture_.fingerprint();
  return state;
}

void PackPlanner::restore(const LoaderState& state) {
  state.validate("loader state");
  const std::string order = mixture_.fingerprint();
  PV_CHECK(state.order.empty() || state.order == order,
           "the data are not those that this run began with: order {} now, {} in its checkpoint; "
           "seed, weights and the "
           "number of samples of every source must be the same",
           order,
           state.order);
  measured_.clear();
  window_.clear();
  skipped_.clear();
  restored_.clear();
  to_measure_again_.clear();
  for (std::size_t i = 0; i < state.pending.size(); ++i) {
    restored_.push_back({state.pending[i], state.pieces.empty() ? 0 : state.pieces[i]});
    if (i == 0 || state.pending[i] != state.pending[i - 1]) to_measure_again_.push_back(state.pending[i]);
  }
  next_position_ = next_unmeasured_ = state.next_position;
  num_samples_ = state.num_samples;
  num_skipped_ = state.num_skipped;
  num_split_ = state.num_split;
  std::fill(failures_.begin(), failures_.end(), 0);
}

}  // namespace pocketvlm
