#include "model/released/pickled_weights.h"

#include "base/files.h"
#include "tests/fuzz/target.h"
#include "tests/model/released/pickled_bytes.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const PickledWeights weights(as_file(bytes));
  // Every view must lie in the file or in a copy: all of it is read.
  unsigned sum = 0;
  for (const auto& [name, tensor] : weights.tensors()) {
    std::size_t size = dtype_bytes(tensor.dtype);
    for (const std::int64_t length : tensor.shape) size *= static_cast<std::size_t>(length);
    if (size != tensor.bytes.size()) __builtin_trap();
    for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
  }
  [[maybe_unused]] volatile const unsigned kept = sum;
}

void write_seeds(const std::filesystem::path& folder) {
  std::filesystem::copy_file(TEST_DATA "/model/golden/pickled_weights.bin", folder / "torch_save");
  const std::string program = pickled_dictionary({{"a", pickled_tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1})},
                                                  {"transposed", pickled_tensor("FloatStorage", "0", 6, 0, {3, 2}, {1, 3})},
                                                  {"column", pickled_tensor("HalfStorage", "0", 12, 1, {3}, {4})}});
  write_file_atomic(folder / "views", zip_of({{"archive/data.pkl", program}, {"archive/data/0", std::string(24, 'x')}}));
}

}  // namespace pocketvlm
