#include "data/json_scanner.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMaxDepth = 1000;  // bounds memory; readers of elements set stricter limits

class Scanner {
 public:
  Scanner(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::size_t position() const { return at_; }
  std::size_t line() const { return line_; }

  void skip_space() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  bool at_end() const { return at_ == text_.size(); }

  bool take(char wanted) {
    if (at_end() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void expect(char wanted, const char* why) {
    if (!take(wanted)) broken(fmt::format("expected '{}' {}", wanted, why));
  }

  /// One value of any kind, whatever its depth, without recursion.
  void value() {
    std::vector<char> open;  // the closing bracket of each level
    do {
      skip_space();
      if (take('{')) {
        enter(open, '}');
        skip_space();
        if (!take('}')) {
          key();
          continue;
        }
        open.pop_back();
      } else if (take('[')) {
        enter(open, ']');
        skip_space();
        if (!take(']')) continue;
        open.pop_back();
      } else {
        scalar();
      }
      close_levels(open);
    } while (!open.empty());
  }

  [[noreturn]] void broken(const std::string& reason) const {
    const std::size_t newline = text_.substr(0, at_).rfind('\n');
    const std::size_t column = newline == std::string_view::npos ? at_ + 1 : at_ - newline;
    fail("{}: line {}, column {}: not valid JSON: {}{}",
         where_,
         line_,
         column,
         reason,
         at_end() ? "; the file ends here, is it cut off?" : "");
  }

 private:
  void enter(std::vector<char>& open, char closing) {
    open.push_back(closing);
    if (open.size() > kMaxDepth) broken(fmt::format("nested deeper than {} levels", kMaxDepth));
  }

  /// After a value: a comma leads to the next one, brackets close their levels.
  void close_levels(std::vector<char>& open) {
    while (!open.empty()) {
      skip_space();
      if (take(',')) {
        if (open.back() == '}') {
          skip_space();
          key();
        }
        return;
      }
      expect(open.back(), "or ',' after a value");
      open.pop_back();
    }
  }

  void key() {
    if (at_end() || text_[at_] != '"') broken("expected a key in double quotes");
    string();
    skip_space();
    expect(':', "after a key");
  }

  void string() {
    ++at_;
    while (!at_end()) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        broken("a control character in a string; write it as \\n or \\u00..");
      ++at_;
      if (c == '\\') escape();
    }
    broken("a string is not closed");
  }

  void escape() {
    if (at_end()) broken("a string is not closed");
    const char c = text_[at_++];
    if (c == 'u') {
      for (int i = 0; i < 4; ++i, ++at_) {
        if (at_end() || !is_hex(text_[at_])) broken("\\u needs four hexadecimal digits");
      }
    } else if (std::string_view("\"\\/bfnrt").find(c) == std::string_view::npos) {
      --at_;
      broken("an unknown escape in a string");
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  }

  void digits() {
    if (at_end() || !is_digit(text_[at_])) broken("expected a digit");
    while (!at_end() && is_digit(text_[at_])) ++at_;
  }

  void scalar() {
    if (at_end()) broken("expected a value");
    const char c = text_[at_];
    if (c == '"') return string();
    if (c == '-' || is_digit(c)) return number();
    for (const std::string_view word : {"true", "false", "null"}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return;
      }
    }
    broken("expected a value");
  }

  void number() {
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::size_t line_ = 1;
};

}  // namespace

void scan_json_list(
    std::string_view text,
    const std::string& where,
    const std::function<void(std::size_t begin, std::size_t end, std::size_t line)>& element) {
  Scanner scanner(text, where);
  scanner.skip_space();
  if (scanner.at_end()) scanner.broken("the file is empty");
  if (!scanner.take('[')) {
    fail(
        "{}: line {}: the file must be a JSON list of samples, [{{...}}, ...]; one sample a line "
        "is called .jsonl",
        where,
        scanner.line());
  }
  scanner.skip_space();
  if (!scanner.take(']')) {
    do {
      scanner.skip_space();
      const std::size_t begin = scanner.position();
      const std::size_t line = scanner.line();
      scanner.value();
      element(begin, scanner.position(), line);
      scanner.skip_space();
    } while (scanner.take(','));
    scanner.expect(']', "or ',' after an element of the list");
  }
  scanner.skip_space();
  if (!scanner.at_end()) scanner.broken("something follows the end of the list");
}

}  // namespace pocketvlm
