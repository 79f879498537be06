#include "data/preprocess/unicode_classes.h"

#include <algorithm>
#include <iterator>

namespace pocketvlm {
namespace {

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};

#include "data/preprocess/unicode_ranges.inc"

template <std::size_t size>
bool contains(const Range (&ranges)[size], std::uint32_t code_point) {
  const Range* after =
      std::upper_bound(std::begin(ranges),
                       std::end(ranges),
                       code_point,
                       [](std::uint32_t value, const Range& range) { return value < range.first; });
  return after != std::begin(ranges) && code_point <= std::prev(after)->last;
}

}  // namespace

bool is_letter(std::uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return contains(kLetterRanges, c);
}

bool is_number(std::uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return contains(kNumberRanges, c);
}

bool is_whitespace(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace pocketvlm
