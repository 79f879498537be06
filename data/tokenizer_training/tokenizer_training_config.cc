#include <cstdint>
#include <set>
#include <string>

#include "base/error.h"
#include "data/tokenizer_training/tokenizer_training.h"

namespace pocketvlm {

void TokenizerTrainingConfig::validate(const std::string& path) const {
  std::set<std::string> seen = {"<unk>", "<s>", "</s>"};
  for (const std::string& piece : special_pieces) {
    PV_CHECK(!piece.empty() && piece.find_first_of(",\"\n\r \t") == std::string::npos,
             "{}.special_pieces: \"{}\" is empty or holds a comma, a quotation mark or a space; "
             "choose another spelling",
             path,
             piece);
    PV_CHECK(seen.insert(piece).second,
             "{}.special_pieces: \"{}\" is there twice, or is one of <unk>, <s>, </s>",
             path,
             piece);
  }
  const std::int64_t fixed = 3 + 256 + static_cast<std::int64_t>(special_pieces.size());
  PV_CHECK(vocab_size > fixed,
           "{}.vocab_size: {} leaves nothing to learn beside {} fixed pieces; raise it",
           path,
           vocab_size,
           fixed);
}

}  // namespace pocketvlm
