#include "rlaif/content_key.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

#include "base/random.h"

namespace pocketvlm {
namespace {

// Eight bytes a round: pictures are hashed, too.
std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t hash) {
  constexpr std::uint64_t kPrime = 0x9E3779B97F4A7C15;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    hash = (hash ^ word) * kPrime;
    hash ^= hash >> 32;
  }
  std::uint64_t last = 0;
  std::memcpy(&last, bytes.data() + i, bytes.size() - i);
  return mix_keys({hash, last, bytes.size()});
}

}  // namespace

std::string content_key(std::initializer_list<std::string_view> parts) {
  std::uint64_t hash = parts.size();
  for (const std::string_view part : parts) hash = hash_bytes(part, hash);
  return fmt::format("{:016x}", hash);
}

}  // namespace pocketvlm
