#include "data/mixture.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "data/sample.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kBlock = 1024;
constexpr int kShareBits = 32;
constexpr std::uint64_t kOne = std::uint64_t{1} << kShareBits;

}  // namespace

Mixture::Mixture(const std::vector<double>& weights,
                 std::vector<std::int64_t> sizes,
                 std::uint64_t seed)
    : sizes_(std::move(sizes)), seed_(seed) {
  PV_CHECK(weights.size() == sizes_.size() && !weights.empty(),
           "a mixture needs at least one source");
  double total = 0;
  for (const double weight : weights) {
    PV_CHECK(std::isfinite(weight) && weight >= 0,
             "the weight {} of a source is not a number from 0 up",
             weight);
    total += weight;
  }
  PV_CHECK(total > 0 && std::isfinite(total),
           "the weights of the sources add up to {}; give one a weight above 0",
           total);
  for (std::size_t s = 0; s < weights.size(); ++s) {
    PV_CHECK(weights[s] == 0 || sizes_[s] > 0,
             "source {} holds no samples; remove it or give it weight 0",
             s);
    // Integers, so that the order is the same on every machine; no source vanishes by rounding.
    const double share = std::round(weights[s] / total * static_cast<double>(kOne));
    shares_.push_back(
        weights[s] == 0 ? 0 : std::max<std::uint64_t>(1, static_cast<std::uint64_t>(share)));
    phases_.push_back(mix_keys({seed, 0x9e37, s}) % kOne);
  }
}

std::int64_t Mixture::drawn_before(std::size_t source, std::int64_t block) const {
  const auto exact =
      static_cast<unsigned __int128>(shares_[source]) * static_cast<std::uint64_t>(block * kBlock);
  return static_cast<std::int64_t>((exact + phases_[source]) >> kShareBits);
}

std::int64_t Mixture::block_begin(std::int64_t block) const {
  std::int64_t total = 0;
  for (std::size_t s = 0; s < shares_.size(); ++s) total += drawn_before(s, block);
  return total;
}

void Mixture::load_block(std::int64_t block) {
  std::vector<int> order;
  std::vector<std::int64_t> counts;
  for (std::size_t s = 0; s < shares_.size(); ++s) {
    const std::int64_t before = drawn_before(s, block);
    counts.push_back(before);
    order.insert(order.end(),
                 static_cast<std::size_t>(drawn_before(s, block + 1) - before),
                 static_cast<int>(s));
  }
  Random random({seed_, 0xb10c, static_cast<std::uint64_t>(block)});
  random.shuffle(order);
  draws_.clear();
  for (const int source : order)
    draws_.push_back({source, counts[static_cast<std::size_t>(source)]++});
  block_ = block;
  begin_ = block_begin(block);
  end_ = begin_ + static_cast<std::int64_t>(draws_.size());
}

MixturePlace Mixture::place(std::int64_t position) {
  PV_CHECK(position >= 0 && position < SampleSource::kEndless / kBlock,
           "{} is not a position of a mixture",
           position);
  if (block_ < 0 || position < begin_ || position >= end_) {
    // Every source is rounded by itself, so a stretch holds 1024 samples only nearly.
    std::int64_t block = position / kBlock;
    while (block > 0 && block_begin(block) > position) --block;
    while (block_begin(block + 1) <= position) ++block;
    load_block(block);
  }
  const Draw& draw = draws_[static_cast<std::size_t>(position - begin_)];
  const std::int64_t size = sizes_[static_cast<std::size_t>(draw.source)];
  if (size == SampleSource::kEndless) return {draw.source, draw.count};
  const auto epoch = static_cast<std::uint64_t>(draw.count / size);
  const std::uint64_t seed = mix_keys({seed_, static_cast<std::uint64_t>(draw.source), epoch});
  return {draw.source, permuted_index(draw.count % size, size, seed)};
}

std::string Mixture::fingerprint() const {
  std::uint64_t mixed = mix_keys({seed_, shares_.size()});
  for (std::size_t s = 0; s < shares_.size(); ++s) {
    mixed = mix_keys({mixed, shares_[s], static_cast<std::uint64_t>(sizes_[s])});
  }
  return fmt::format("{:016x}", mixed);
}

}  // namespace pocketvlm
