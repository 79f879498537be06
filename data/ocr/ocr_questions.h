#pragma once

#include <cstdint>
#include <string>

namespace pocketvlm {

/// How sample `index` asks for the text of its picture.
std::string reading_question(std::uint64_t seed, std::int64_t index);

}  // namespace pocketvlm
