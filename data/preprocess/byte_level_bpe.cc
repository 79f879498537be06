#include "data/preprocess/byte_level_bpe.h"

#include <queue>

#include "base/error.h"
#include "data/preprocess/unicode_normalization.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

struct Symbol {
  std::int32_t id = -1;  // -1: merged away
  int previous = -1;
  int next = -1;
};

struct Candidate {
  std::int32_t rank;
  int left;
  int right;
  std::int32_t left_id;  // tells whether the pair has changed since
  std::int32_t right_id;
  std::int32_t joined;
};

struct LowerPriority {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank > b.rank || (a.rank == b.rank && a.left > b.left);
  }
};

}  // namespace

const std::array<std::string, 256>& byte_spelling() {
  // Printable Latin-1 bytes are spelled as themselves and the others as U+0100 and up, in order.
  static const std::array<std::string, 256> spelling = [] {
    std::array<std::string, 256> made;
    std::uint32_t spare = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      append_utf8(printable ? byte : spare++, made[byte]);
    }
    return made;
  }();
  return spelling;
}

ByteLevelBpe::ByteLevelBpe(const Vocabulary& vocabulary, const std::string& where)
    : rule_(split_rule(vocabulary.pre, where)), nfc_(vocabulary.nfc), whole_words_(vocabulary.whole_words) {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_of_.emplace(read_utf8(byte_spelling()[byte]).code_point, static_cast<unsigned char>(byte));
  }
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    if (vocabulary.types[i] != TokenType::kNormal) continue;
    piece_ids_.emplace(vocabulary.pieces[i], static_cast<std::int32_t>(i));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = piece_ids_.find(byte_spelling()[byte]);
    byte_ids_[byte] = found == piece_ids_.end() ? -1 : found->second;
    // Real vocabularies (SmolLM2) lack bytes that their training text never held; ASCII text is never among them.
    const bool is_text = (byte >= 0x20 && byte < 0x7F) || byte == '\n';
    PV_CHECK(byte_ids_[byte] >= 0 || !is_text,
             "{}: byte 0x{:02X} has no piece; a byte-level vocabulary needs one for each byte of text",
             where,
             byte);
  }
  merges_.reserve(vocabulary.merges.size());
  for (std::size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const std::string& merge = vocabulary.merges[rank];
    const std::size_t gap = merge.find(' ');
    PV_CHECK(gap != std::string::npos && gap > 0 && gap + 1 < merge.size() &&
                 merge.find(' ', gap + 1) == std::string::npos,
             "{}: merge {} is \"{}\", not two pieces with a space between them",
             where,
             rank,
             merge);
    const auto left = piece_ids_.find(std::string_view(merge).substr(0, gap));
    const auto right = piece_ids_.find(std::string_view(merge).substr(gap + 1));
    const auto joined = piece_ids_.find(merge.substr(0, gap) + merge.substr(gap + 1));
    PV_CHECK(left != piece_ids_.end() && right != piece_ids_.end() && joined != piece_ids_.end(),
             "{}: merge {}, \"{}\", names or makes a piece that is not in the vocabulary",
             where,
             rank,
             merge);
    // A pair listed twice keeps its first rank.
    merges_.try_emplace(pair_key(left->second, right->second),
                        Merge{static_cast<std::int32_t>(rank), joined->second});
  }
}

void ByteLevelBpe::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  std::string valid = replace_invalid_utf8(text);
  if (nfc_) valid = normalize_nfc(valid);
  for (const std::string_view word : split_words(valid, rule_)) encode_word(word, ids);
}

void ByteLevelBpe::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (whole_words_) {
    std::string spelled;
    for (const char c : word) spelled += byte_spelling()[static_cast<unsigned char>(c)];
    if (const auto found = piece_ids_.find(spelled); found != piece_ids_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  std::vector<Symbol> symbols(word.size());
  const auto at = [&](int index) -> Symbol& { return symbols[static_cast<std::size_t>(index)]; };
  const int count = static_cast<int>(word.size());
  for (int i = 0; i < count; ++i) {
    at(i) = {byte_ids_[static_cast<unsigned char>(word[static_cast<std::size_t>(i)])],
             i - 1,
             i + 1 < count ? i + 1 : -1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, LowerPriority> queue;
  const auto consider = [&](int left, int right) {
    if (left < 0 || right < 0) return;
    const auto found = merges_.find(pair_key(at(left).id, at(right).id));
    if (found == merges_.end()) return;
    queue.push({found->second.rank, left, right, at(left).id, at(right).id, found->second.id});
  };
  for (int i = 1; i < count; ++i) consider(i - 1, i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.left);
    Symbol& right = at(best.right);
    if (left.id != best.left_id || right.id != best.right_id || left.next != best.right) continue;
    left.id = best.joined;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    right.id = -1;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (int i = 0; i >= 0; i = at(i).next) {
    if (at(i).id >= 0) ids.push_back(at(i).id);
  }
}

std::string ByteLevelBpe::bytes_of(std::string_view piece) const {
  std::string bytes;
  while (!piece.empty()) {
    const Utf8Char character = read_utf8(piece);
    const auto found = byte_of_.find(character.code_point);
    if (character.valid && found != byte_of_.end()) {
      bytes.push_back(static_cast<char>(found->second));
    } else {
      bytes.append(piece.substr(0, static_cast<std::size_t>(character.size)));
    }
    piece.remove_prefix(static_cast<std::size_t>(character.size));
  }
  return bytes;
}

}  // namespace pocketvlm
