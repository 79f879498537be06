#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace pocketvlm {

/// Sums, column by column, of the squares of what the matrices of a decoder read. Matrices of one
/// input share an entry, under the first one's name (blk.N.attn_q.weight also stands for k and v,
/// blk.N.ffn_gate.weight for up).
class InputSquares {
 public:
  struct Entry {
    std::vector<double> sums;  // [columns]
    std::int64_t rows = 0;
  };

  /// Columns [first, first + count) of an input of `columns`; values [rows, count]. Thread-safe for
  /// different columns.
  void add(const std::string& tensor,
           std::int64_t columns,
           std::int64_t first,
           std::int64_t count,
           const float* values,
           std::int64_t rows);
  const std::map<std::string, Entry>& entries() const { return entries_; }

 private:
  std::mutex mutex_;  // of the map, not of the sums
  std::map<std::string, Entry> entries_;
};

}  // namespace pocketvlm
