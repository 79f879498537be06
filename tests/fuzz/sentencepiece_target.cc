#include "data/preprocess/tokenizer.h"

#include "base/files.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {
namespace {

// Protobuf by hand: a field is (number << 3 | wire type), then a length or a fixed number.
std::string field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

std::string piece(const std::string& text, float score, int type) {
  std::string score_bytes(reinterpret_cast<const char*>(&score), 4);
  return field(1, field(1, text) + static_cast<char>(2 << 3 | 5) + score_bytes + static_cast<char>(3 << 3) + static_cast<char>(type));
}

}  // namespace

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const Tokenizer tokenizer(read_sentencepiece_model(bytes, "fuzz"), "fuzz");
  tokenizer.decode(tokenizer.encode("hello \xe4\xbd\xa0 </s>", true));
}

void write_seeds(const std::filesystem::path& folder) {
  std::string model = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  const char* digits = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) model += piece(std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">", 0, 6);
  float score = -1;
  for (const char* text : {"h", "e", "l", "o", "he", "ll", "hell", "\xe2\x96\x81"}) model += piece(text, score--, 1);
  // trainer_spec: model_type = 2 (BPE), byte_fallback (field 35) = true; normalizer_spec: identity
  model += field(2, {static_cast<char>(3 << 3), 2, '\x98', '\x02', 1}) + field(3, field(1, "identity"));
  write_file_atomic(folder / "bpe", model);
}

}  // namespace pocketvlm
