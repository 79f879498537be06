// Text through both kinds of tokenizer: whatever the bytes, ids are in range and decoding them ends.
#include "data/preprocess/tokenizer.h"

#include "base/files.h"
#include "tests/fuzz/target.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {

const bool kDamageIsNoticed = false;

void read_hostile(std::span<const std::byte> bytes) {
  static const Tokenizer tokenizer = Tokenizer::load(write_tiny_model({}).language);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const auto specials : {SpecialPieces::kNone, SpecialPieces::kUserDefined, SpecialPieces::kAll}) {
    const auto ids = tokenizer.encode(text, EncodeOptions{specials, true});
    for (const std::int32_t id : ids)
      if (id < 0 || id >= tokenizer.size()) __builtin_trap();
    tokenizer.decode(ids, true);
  }
}

void write_seeds(const std::filesystem::path& folder) {
  write_file_atomic(folder / "mixed", "Hello <image></s> \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd \xff\xc0\x80 \xed\xa0\x80");
}

}  // namespace pocketvlm
