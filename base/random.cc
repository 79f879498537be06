#include "base/random.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <numbers>

namespace pocketvlm {
namespace {

std::uint64_t splitmix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace

std::uint64_t mix_keys(std::initializer_list<std::uint64_t> keys) {
  std::uint64_t state = 0x243f6a8885a308d3ULL;  // digits of pi: no key is special
  for (const std::uint64_t key : keys) {
    state ^= key;
    state = splitmix(state);
  }
  return state;
}

Random::Random(std::initializer_list<std::uint64_t> keys) {
  std::uint64_t seed = mix_keys(keys);
  for (std::uint64_t& word : state_) word = splitmix(seed);
}

std::uint64_t Random::next() {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

double Random::uniform(double low, double high) { return low + (high - low) * uniform(); }

std::int64_t Random::below(std::int64_t n) {
  assert(n > 0);
  const auto range = static_cast<std::uint64_t>(n);
  const std::uint64_t limit = -range % range;  // values below it would be over-represented
  std::uint64_t value = next();
  while (value < limit) value = next();
  return static_cast<std::int64_t>(value % range);
}

std::int64_t Random::between(std::int64_t low, std::int64_t high) {
  return low + below(high - low + 1);
}

bool Random::chance(double probability) { return uniform() < probability; }

double Random::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::int64_t permuted_index(std::int64_t index, std::int64_t n, std::uint64_t seed) {
  assert(index >= 0 && index < n);
  if (n <= 2) return (index + static_cast<std::int64_t>(seed & 1)) % n;
  // Four rounds of a Feistel network over an even number of bits, walking until inside [0, n).
  const int half = (std::bit_width(static_cast<std::uint64_t>(n - 1)) + 1) / 2;
  const std::uint64_t mask = (1ULL << half) - 1;
  auto value = static_cast<std::uint64_t>(index);
  do {
    std::uint64_t left = value >> half;
    std::uint64_t right = value & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t swapped = left ^ (mix_keys({seed, round, right}) & mask);
      left = right;
      right = swapped;
    }
    value = (left << half) | right;
  } while (value >= static_cast<std::uint64_t>(n));
  return static_cast<std::int64_t>(value);
}

}  // namespace pocketvlm
