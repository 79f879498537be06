// Damaged inputs without a fuzzer: every seed cut short, and with bytes, words and pieces changed by a seeded stream.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {
namespace {

constexpr int kMutationsPerSeed = 400;

std::vector<std::string> seeds() {
  const std::filesystem::path folder = as_file({}) + ".seeds";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  write_seeds(folder);
  std::vector<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) all.push_back(read_file(entry.path()));
  std::filesystem::remove_all(folder);
  return all;
}

// The error, or nothing when the input was read.
std::string refusal(const std::string& bytes) {
  try {
    read_hostile(std::as_bytes(std::span(bytes)));
    return "";
  } catch (const Error& error) {
    EXPECT_FALSE(std::string(error.what()).empty());
    return error.what();
  }
}

std::string damaged(std::string bytes, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % std::max<std::size_t>(n, 1)); };
  const int changes = 1 + static_cast<int>(below(4));
  for (int i = 0; i < changes && !bytes.empty(); ++i) {
    // Headers are where lengths and offsets stand: half of all changes fall there.
    const std::size_t place = below(below(2) ? bytes.size() : std::min<std::size_t>(bytes.size(), 256));
    switch (below(5)) {
      case 0: bytes[place] = static_cast<char>(random()); break;
      case 1: bytes[place] ^= static_cast<char>(1 << below(8)); break;
      case 2: bytes.resize(place); break;
      case 3: bytes.insert(place, bytes.substr(below(bytes.size()), below(32))); break;
      default: {  // a count or offset at the edge of its type
        static constexpr std::uint64_t kEdges[] = {0, 1, 0x7fffffff, 0xffffffff, 1ull << 60, 0x7fffffffffffffff, ~0ull};
        const std::uint64_t edge = kEdges[below(std::size(kEdges))];
        std::memcpy(bytes.data() + place, &edge, std::min<std::size_t>(below(2) ? 8 : 4, bytes.size() - place));
      }
    }
  }
  return bytes;
}

TEST(HostileInput, SeedsAreRead) {
  const auto all = seeds();
  ASSERT_FALSE(all.empty());
  for (const std::string& seed : all) EXPECT_EQ(refusal(seed), "");
}

TEST(HostileInput, DamageIsRefusedOrReadButNeverCrashes) {
  std::mt19937_64 random(7);
  int refused = 0, tried = 0;
  for (const std::string& seed : seeds())
    for (int i = 0; i < kMutationsPerSeed; ++i, ++tried) refused += !refusal(damaged(seed, random)).empty();
  // Damage that is never noticed would mean that nothing is checked.
  if (kDamageIsNoticed) EXPECT_GT(refused, tried / 20);
  else EXPECT_EQ(refused, 0);
}

}  // namespace
}  // namespace pocketvlm
