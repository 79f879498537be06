#include "data/ocr/ocr_questions.h"

#include <iterator>

#include "base/random.h"

namespace pocketvlm {

std::string reading_question(std::uint64_t seed, std::int64_t index) {
  static constexpr const char* kQuestions[] = {"What does the text in the picture say?",
                                               "Read the text in the picture.",
                                               "Transcribe the text line by line.",
                                               "What is written here?",
                                               "Write down all the text that you see."};
  Random random({seed, 0x61736b, static_cast<std::uint64_t>(index)});
  return kQuestions[random.below(std::size(kQuestions))];
}

}  // namespace pocketvlm
