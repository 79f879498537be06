#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mobile/kernels.h"

namespace pocketvlm {

/// Values at an address `shift` bytes behind a multiple of 64.
template <typename T>
class Misplaced {
 public:
  Misplaced(std::size_t count, std::size_t shift) : memory_(count * sizeof(T) + 192) {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(memory_.data()) % 64;
    data_ = reinterpret_cast<T*>(memory_.data() + (64 - past) + shift);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  std::vector<std::byte> memory_;
  T* data_;
};

/// The int8 form of some rows [tokens, columns], with the memory it lives in: floats as misplaced
/// as floats may be, bytes anywhere.
struct QuantizedInput {
  Misplaced<std::int8_t> quants;
  Misplaced<float> scales, sums16, sums32;
  MatmulInput input;

  QuantizedInput(const Kernels& kernels,
                 const std::vector<float>& x,
                 std::int64_t tokens,
                 std::int64_t columns,
                 std::size_t shift = 0)
      : quants(x.size(), shift),
        scales(x.size() / 32, 4 * shift % 64),
        sums16(x.size() / 16, 4 * shift % 64),
        sums32(x.size() / 32, 4 * shift % 64) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t at = t * columns;
      kernels.quantize(x.data() + at,
                       columns,
                       {quants.data() + at,
                        scales.data() + at / 32,
                        sums16.data() + at / 16,
                        sums32.data() + at / 32});
    }
    input = {.tokens = tokens,
             .columns = columns,
             .values = x.data(),
             .stride = columns,
             .quants = quants.data(),
             .scales = scales.data(),
             .sums16 = sums16.data(),
             .sums32 = sums32.data()};
  }
};

}  // namespace pocketvlm
