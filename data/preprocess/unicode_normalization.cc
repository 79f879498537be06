#include "data/preprocess/unicode_normalization.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <tuple>
#include <utility>
#include <vector>

#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

struct Range {
  std::uint32_t first;
  std::uint32_t last;
};
struct ClassRange {
  std::uint32_t first;
  std::uint32_t last;
  std::uint8_t combining_class;
};
struct Decomposition {
  std::uint32_t code_point;
  std::uint32_t first;
  std::uint32_t second;  // 0: there is only one part
};
struct Composition {
  std::uint32_t first;
  std::uint32_t second;
  std::uint32_t code_point;
};

#include "data/preprocess/unicode_normalization.inc"

/// Hangul syllables are composed by arithmetic (Unicode Standard, section 3.12).
constexpr std::uint32_t kSyllable = 0xAC00, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11A7;
constexpr std::uint32_t kNumLeading = 19, kNumVowels = 21, kNumTrailing = 28;
constexpr std::uint32_t kNumSyllables = kNumLeading * kNumVowels * kNumTrailing;

/// The range that holds a code point, or null.
template <typename T, std::size_t size>
const T* find_range(const T (&ranges)[size], std::uint32_t code_point) {
  const T* after = std::upper_bound(std::begin(ranges), std::end(ranges), code_point, [](std::uint32_t value, const T& range) {
    return value < range.first;
  });
  if (after == std::begin(ranges) || code_point > std::prev(after)->last) return nullptr;
  return std::prev(after);
}

struct Mark {
  std::uint32_t code_point;
  std::uint8_t combining_class;
};

std::uint8_t combining_class(std::uint32_t code_point) {
  const ClassRange* range = find_range(kCombiningClasses, code_point);
  return range == nullptr ? 0 : range->combining_class;
}

void decompose(std::uint32_t code_point, std::vector<Mark>& out) {
  if (code_point >= kSyllable && code_point < kSyllable + kNumSyllables) {
    const std::uint32_t index = code_point - kSyllable;
    out.push_back({kLeading + index / (kNumVowels * kNumTrailing), 0});
    out.push_back({kVowel + index / kNumTrailing % kNumVowels, 0});
    if (index % kNumTrailing != 0) out.push_back({kTrailing + index % kNumTrailing, 0});
    return;
  }
  const auto* found = std::lower_bound(
      std::begin(kDecompositions), std::end(kDecompositions), code_point,
      [](const Decomposition& item, std::uint32_t value) { return item.code_point < value; });
  if (found == std::end(kDecompositions) || found->code_point != code_point) {
    out.push_back({code_point, combining_class(code_point)});
    return;
  }
  decompose(found->first, out);
  if (found->second != 0) decompose(found->second, out);
}

/// What two code points become, or 0.
std::uint32_t composed(std::uint32_t first, std::uint32_t second) {
  if (first >= kLeading && first < kLeading + kNumLeading && second >= kVowel && second < kVowel + kNumVowels) {
    return kSyllable + ((first - kLeading) * kNumVowels + second - kVowel) * kNumTrailing;
  }
  if (first >= kSyllable && first < kSyllable + kNumSyllables && (first - kSyllable) % kNumTrailing == 0 &&
      second > kTrailing && second < kTrailing + kNumTrailing) {
    return first + second - kTrailing;
  }
  const auto* found = std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::pair(first, second),
                                       [](const Composition& item, const std::pair<std::uint32_t, std::uint32_t>& pair) {
                                         return std::tie(item.first, item.second) < std::tie(pair.first, pair.second);
                                       });
  if (found == std::end(kCompositions) || found->first != first || found->second != second) return 0;
  return found->code_point;
}

/// Marks behind a letter in the order of their classes; equal ones keep theirs.
void reorder(std::vector<Mark>& marks) {
  for (auto at = marks.begin(); at != marks.end();) {
    if (at->combining_class == 0) {
      ++at;
      continue;
    }
    const auto end = std::find_if(at, marks.end(), [](const Mark& mark) { return mark.combining_class == 0; });
    std::stable_sort(at, end, [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    at = end;
  }
}

/// Joins each mark with the last letter before it, unless a mark of the same or a higher class stands between.
void compose(std::vector<Mark>& marks) {
  std::size_t kept = 0, letter = marks.size();  // marks.size(): no letter yet
  int class_before = -1;                        // of what stands between the letter and this mark; -1: nothing
  for (const Mark& mark : std::vector<Mark>(marks)) {
    const bool reaches = letter < kept && (class_before == -1 || class_before < mark.combining_class);
    if (const std::uint32_t joined = reaches ? composed(marks[letter].code_point, mark.code_point) : 0; joined != 0) {
      marks[letter].code_point = joined;
      continue;
    }
    if (mark.combining_class == 0) letter = kept;
    class_before = mark.combining_class == 0 ? -1 : mark.combining_class;
    marks[kept++] = mark;
  }
  marks.resize(kept);
}

bool is_normal(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char character = read_utf8(text);
    if (character.code_point >= 0x300 && find_range(kUnsettled, character.code_point) != nullptr) return false;
    text.remove_prefix(static_cast<std::size_t>(character.size));
  }
  return true;
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  if (is_normal(text)) return std::string(text);
  std::vector<Mark> marks;
  marks.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Char character = read_utf8(rest);
    decompose(character.code_point, marks);
    rest.remove_prefix(static_cast<std::size_t>(character.size));
  }
  reorder(marks);
  compose(marks);
  std::string out;
  out.reserve(text.size());
  for (const Mark& mark : marks) append_utf8(mark.code_point, out);
  return out;
}

}  // namespace pocketvlm
