#include "mobile/answer_stream.h"

namespace pocketvlm {
namespace {

// Text that is certain: bytes of an unfinished character decode to U+FFFD, which the next tokens
// may still mend.
std::string_view without_unfinished(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  while (text.ends_with(kReplacement)) text.remove_suffix(kReplacement.size());
  return text;
}

}  // namespace

std::string AnswerStream::add(std::int32_t id) {
  ids_.push_back(id);
  const std::string text = encoder_.answer_text(ids_);
  const std::string_view certain = without_unfinished(text);
  std::string piece;
  if (certain.size() > told_) {
    piece = certain.substr(told_);
    told_ = certain.size();
  }
  if (told_ == text.size()) forget();
  return piece;
}

std::string AnswerStream::finish() {
  const std::string text = encoder_.answer_text(ids_);
  std::string piece = text.size() > told_ ? text.substr(told_) : std::string();
  told_ = text.size();
  return piece;
}

// Everything was told: what comes next depends on no more than that text came before, for which one
// id with text stands. Ids that have none by themselves stay until there is one.
void AnswerStream::forget() {
  const std::size_t tail = encoder_.answer_text({&ids_.back(), 1}).size();
  if (tail == 0) return;
  ids_ = {ids_.back()};
  told_ = tail;
}

}  // namespace pocketvlm
