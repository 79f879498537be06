#include "rlaif/plain_text.h"

#include <string_view>

namespace pocketvlm {

std::string without_image_marks(std::string text) {
  constexpr std::string_view kMark = "<image>";
  for (std::size_t at = text.find(kMark); at != std::string::npos; at = text.find(kMark, at)) {
    text.erase(at, kMark.size());
    // What stood around a mark must not become one.
    at = at < kMark.size() ? 0 : at - kMark.size();
  }
  return text;
}

}  // namespace pocketvlm
