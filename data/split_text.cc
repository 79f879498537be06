#include "data/split_text.h"

#include <algorithm>
#include <utility>

namespace pocketvlm {

std::vector<EncodedSample> split_text(EncodedSample text, std::int64_t max_tokens) {
  std::vector<EncodedSample> pieces;
  const std::int64_t tokens = text.num_tokens();
  if (tokens <= max_tokens) {
    pieces.push_back(std::move(text));
    return pieces;
  }
  const EncodedChat& whole = text.chat;
  const std::int64_t count = (tokens + max_tokens - 1) / max_tokens;
  for (std::int64_t begin = 0, end = 0; begin < tokens; begin = end) {
    const std::int64_t rest = tokens - begin;
    const bool shares = rest > max_tokens && rest < max_tokens + max_tokens / 2;
    end = begin + (shares ? (rest + 1) / 2 : std::min(rest, max_tokens));
    EncodedSample piece;
    piece.id = fmt::format("{}, piece {} of {}", text.id, pieces.size() + 1, count);
    piece.task = text.task;
    piece.weight = text.weight;
    piece.chat.ids.assign(whole.ids.begin() + begin, whole.ids.begin() + end);
    piece.chat.is_target.assign(whole.is_target.begin() + begin, whole.is_target.begin() + end);
    const auto next = static_cast<std::size_t>(end);
    if (end < tokens && whole.is_target[next] != 0) piece.chat.next_id = whole.ids[next];
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace pocketvlm
