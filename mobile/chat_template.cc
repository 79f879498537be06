#include "mobile/chat_template.h"

namespace pocketvlm {

std::string default_system_of(const std::string& chat_template) {
  const std::string begin = "<|im_start|>system", end = "<|im_end|>";
  for (std::size_t at = chat_template.find(begin); at != std::string::npos; at = chat_template.find(begin, at)) {
    at += begin.size();
    // A line break is written as itself or, inside of Jinja's quotes, as \n.
    std::size_t first = at;
    if (chat_template.compare(first, 1, "\n") == 0) {
      first += 1;
    } else if (chat_template.compare(first, 2, "\\n") == 0) {
      first += 2;
    } else {
      continue;
    }
    const std::size_t last = chat_template.find(end, first);
    if (last == std::string::npos) return {};
    const std::string text = chat_template.substr(first, last - first);
    // Quotes, braces and escapes belong to the template: what stands there is put together from a message.
    if (!text.empty() && text.find_first_of("'\"{}\\") == std::string::npos) return text;
  }
  return {};
}

}  // namespace pocketvlm
