#include "base/safetensors.h"

#include <vector>

#include "tests/fuzz/target.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const SafetensorsFile file(as_file(bytes));
  // Every view must lie in the file: its ends are read, and a sanitizer or the system objects if it does not.
  unsigned ends = 0;
  for (const auto& [name, tensor] : file.tensors())
    if (!tensor.bytes.empty()) ends += std::to_integer<unsigned>(tensor.bytes.front()) + std::to_integer<unsigned>(tensor.bytes.back());
  if (ends > 510 * file.tensors().size()) __builtin_trap();  // cannot be; keeps the reads
}

void write_seeds(const std::filesystem::path& folder) {
  static const std::vector<float> values(24, 0.5f);
  const auto view = [](std::size_t bytes) { return [bytes] { return std::as_bytes(std::span(values)).first(bytes); }; };
  write_safetensors(folder / "two", {{"a.weight", "F32", {4, 6}, view(96)}, {"a.bias", "BF16", {6}, view(12)}}, {{"format", "pt"}});
  write_safetensors(folder / "scalar", {{"step", "I64", {}, view(8)}, {"none", "U8", {0, 3}, view(0)}});
}

}  // namespace pocketvlm
