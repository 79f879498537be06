#include "data/preprocess/sentencepiece_bpe.h"

#include <queue>
#include <utility>

#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

/// A stretch of the normalised text; neighbours by index, -1 at the ends. Size 0: merged away.
struct Symbol {
  std::size_t begin = 0;
  std::size_t size = 0;
  int previous = -1;
  int next = -1;
  bool frozen = false;  // a user-defined piece: takes part in no merge
};

struct Candidate {
  int left = 0;
  int right = 0;
  float score = 0;
  std::size_t size = 0;  // of the joined piece; tells whether a neighbour has changed since
};

struct LowerPriority {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.score < b.score || (a.score == b.score && a.left > b.left);
  }
};

}  // namespace

bool looks_like_markup(std::string_view piece) {
  if (piece.size() < 3) return false;
  return (piece.front() == '<' && piece.back() == '>') ||
         (piece.front() == '[' && piece.back() == ']');
}

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

SentencePieceBpe::SentencePieceBpe(const Vocabulary& vocabulary)
    : vocabulary_(vocabulary), is_markup_(vocabulary.pieces.size(), false) {
  byte_ids_.fill(-1);
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const std::string_view piece = vocabulary.pieces[i];
    const auto id = static_cast<std::int32_t>(i);
    const TokenType type = vocabulary.types[i];
    if (type == TokenType::kUserDefined) {
      user_defined_.add(piece, id);
      is_markup_[i] = looks_like_markup(piece);
      if (!is_markup_[i]) ordinary_.add(piece, id);
    }
    if (type == TokenType::kByte) {
      has_byte_pieces_ = true;
      byte_ids_[static_cast<std::size_t>(byte_of_piece(piece))] = id;
    } else if (type != TokenType::kUnknown && type != TokenType::kControl) {
      mergeable_.emplace(piece, id);
    }
  }
}

std::string SentencePieceBpe::normalize(std::string_view text,
                                        bool space_prefix,
                                        const PieceMatcher& matcher) const {
  // What stands at the start of `rest`: a user-defined piece, or one character.
  const auto first_unit = [&](std::string_view rest) -> std::pair<std::string_view, std::size_t> {
    if (const auto match = matcher.find(rest); match.id >= 0) {
      return {rest.substr(0, match.size), match.size};
    }
    const Utf8Char character = read_utf8(rest);
    const auto size = static_cast<std::size_t>(character.size);
    if (!character.valid) return {"\xEF\xBF\xBD", size};
    return {rest.substr(0, size), size};
  };

  const bool trim = vocabulary_.remove_extra_whitespaces;
  std::string out;
  if (trim) {
    while (!text.empty()) {
      const auto [unit, size] = first_unit(text);
      if (unit != " ") break;
      text.remove_prefix(size);
    }
  }
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2 + 3);
  if (space_prefix) out += kSpaceMark;
  bool after_space = trim;
  while (!text.empty()) {
    auto [unit, size] = first_unit(text);
    while (after_space && unit.starts_with(' ')) unit.remove_prefix(1);
    for (const char c : unit) {
      if (c == ' ') {
        out += kSpaceMark;
      } else {
        out += c;
      }
    }
    if (!unit.empty()) after_space = trim && unit.ends_with(' ');
    text.remove_prefix(size);
  }
  if (trim) {
    while (out.ends_with(kSpaceMark)) out.resize(out.size() - kSpaceMark.size());
  }
  return out;
}

void SentencePieceBpe::encode(std::string_view raw,
                              bool space_prefix,
                              bool block_markup,
                              std::vector<std::int32_t>& ids) const {
  const PieceMatcher& matcher = block_markup ? ordinary_ : user_defined_;
  const std::string text = normalize(raw, space_prefix, matcher);

  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    Symbol symbol;
    symbol.begin = at;
    const std::string_view rest = std::string_view(text).substr(at);
    const auto match = matcher.find(rest);
    symbol.frozen = match.id >= 0;
    symbol.size = symbol.frozen ? match.size : static_cast<std::size_t>(read_utf8(rest).size);
    symbol.previous = static_cast<int>(symbols.size()) - 1;
    at += symbol.size;
    symbol.next = at < text.size() ? static_cast<int>(symbols.size()) + 1 : -1;
    symbols.push_back(symbol);
  }
  if (symbols.empty()) return;
  const auto at = [&](int index) -> Symbol& { return symbols[static_cast<std::size_t>(index)]; };
  const auto piece_of = [&](const Symbol& symbol) {
    return std::string_view(text).substr(symbol.begin, symbol.size);
  };

  std::priority_queue<Candidate, std::vector<Candidate>, LowerPriority> queue;
  // Unused pieces steer merges but are not written: they are taken apart again by how they were
  // made.
  std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> unmerge;
  const auto consider = [&](int left, int right) {
    if (left < 0 || right < 0 || at(left).frozen || at(right).frozen) return;
    const std::size_t size = at(left).size + at(right).size;
    const std::string_view joined = std::string_view(text).substr(at(left).begin, size);
    const auto found = mergeable_.find(joined);
    if (found == mergeable_.end() || is_blocked(found->second, block_markup)) return;
    const auto id = static_cast<std::size_t>(found->second);
    queue.push({left, right, vocabulary_.scores[id], size});
    if (vocabulary_.types[id] == TokenType::kUnused) {
      unmerge[joined] = {piece_of(at(left)), piece_of(at(right))};
    }
  };
  for (int i = 1; i < static_cast<int>(symbols.size()); ++i) consider(i - 1, i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.left);
    Symbol& right = at(best.right);
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size = best.size;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    right.size = 0;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }

  bool after_unknown = false;
  const auto write_piece = [&](std::string_view piece, std::int32_t id, bool known) {
    if (known) {
      ids.push_back(id);
    } else if (has_byte_pieces_) {
      for (const char c : piece) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (!after_unknown) {
      ids.push_back(vocabulary_.unk_id);  // one id for a run of unknown pieces
    }
    after_unknown = !known;
  };
  const auto write = [&](const auto& self, std::string_view piece) -> void {
    const auto found = mergeable_.find(piece);
    if (found == mergeable_.end()) return write_piece(piece, vocabulary_.unk_id, false);
    if (vocabulary_.types[static_cast<std::size_t>(found->second)] == TokenType::kUnused) {
      if (const auto halves = unmerge.find(piece); halves != unmerge.end()) {
        self(self, halves->second.first);
        self(self, halves->second.second);
        return;
      }
    }
    write_piece(piece, found->second, true);
  };
  for (int i = 0; i >= 0; i = at(i).next) write(write, piece_of(at(i)));
}

}  // namespace pocketvlm
