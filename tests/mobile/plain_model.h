#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/preprocess/prompt.h"
#include "mobile/gguf.h"

namespace pocketvlm {

/// [rows, columns], double precision.
struct PlainMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<double> data;
  PlainMatrix() = default;
  PlainMatrix(std::int64_t r, std::int64_t c)
      : rows(r), columns(c), data(static_cast<std::size_t>(r * c), 0.0) {}
  double& at(std::int64_t r, std::int64_t c) {
    return data[static_cast<std::size_t>(r * columns + c)];
  }
  double at(std::int64_t r, std::int64_t c) const {
    return data[static_cast<std::size_t>(r * columns + c)];
  }
};

/// The models computed once more from the same files by the formulas, in double precision and with
/// nothing but loops: what the runtime is compared with.
PlainMatrix plain_vision(const GgufFile& mmproj, const EncodedChat& prompt);
PlainMatrix plain_projector(const GgufFile& mmproj,
                            const PlainMatrix& features,
                            const std::vector<std::array<int, 2>>& grids);
/// Logits of all positions; `visual` as plain_projector gives it.
PlainMatrix plain_language(const GgufFile& language,
                           const EncodedChat& prompt,
                           const PlainMatrix& visual);

}  // namespace pocketvlm
