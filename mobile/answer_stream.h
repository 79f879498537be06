#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// The text of an answer while its ids come one by one: the pieces add up to the encoder's
/// answer_text() of all ids, and each costs the same however long the answer is.
class AnswerStream {
 public:
  /// The encoder must outlive this.
  explicit AnswerStream(const PromptEncoder& encoder) : encoder_(encoder) {}

  /// What has become certain with this id: whole characters. Bytes of an unfinished one wait for the
  /// ids after it.
  std::string add(std::int32_t id);
  /// What waited when the answer ended.
  std::string finish();

 private:
  void forget();

  const PromptEncoder& encoder_;
  std::vector<std::int32_t> ids_;  // the last that was told, where there is one, and what is open
  std::size_t told_ = 0;           // bytes of their text that were handed out
};

}  // namespace pocketvlm
