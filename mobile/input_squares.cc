#include "mobile/input_squares.h"

namespace pocketvlm {

void InputSquares::add(const std::string& tensor,
                       std::int64_t columns,
                       std::int64_t first,
                       std::int64_t count,
                       const float* values,
                       std::int64_t rows) {
  Entry* entry;
  {
    const std::lock_guard lock(mutex_);
    entry = &entries_[tensor];
    entry->sums.resize(static_cast<std::size_t>(columns));
    if (first == 0) entry->rows += rows;
  }
  for (std::int64_t r = 0; r < rows; ++r, values += count) {
    for (std::int64_t c = 0; c < count; ++c) {
      const double value = values[c];
      entry->sums[static_cast<std::size_t>(first + c)] += value * value;
    }
  }
}

}  // namespace pocketvlm
