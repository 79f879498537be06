#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// Finds the longest of a set of pieces at the start of a text. Pieces are borrowed.
class PieceMatcher {
 public:
  struct Match {
    std::int32_t id = -1;  // -1: no piece starts here
    std::size_t size = 0;
  };

  void add(std::string_view piece, std::int32_t id) {
    if (piece.empty()) return;
    std::vector<Entry>& bucket = buckets_[static_cast<unsigned char>(piece.front())];
    const auto place = std::find_if(bucket.begin(), bucket.end(), [&](const Entry& entry) {
      return entry.piece.size() < piece.size();
    });
    bucket.insert(place, Entry{piece, id});
  }

  Match find(std::string_view text) const {
    if (text.empty()) return {};
    for (const Entry& entry : buckets_[static_cast<unsigned char>(text.front())]) {
      if (text.starts_with(entry.piece)) return {entry.id, entry.piece.size()};
    }
    return {};
  }

 private:
  struct Entry {
    std::string_view piece;
    std::int32_t id;
  };
  std::array<std::vector<Entry>, 256> buckets_;  // by first byte, longest first
};

}  // namespace pocketvlm
