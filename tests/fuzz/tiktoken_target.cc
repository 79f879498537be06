#include "data/preprocess/tiktoken_file.h"

#include <vector>

#include "base/base64.h"
#include "base/files.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  is_tiktoken_file(text);
  const Tokenizer tokenizer(read_tiktoken_file(text, R"({"tokenizer_class": "Qwen2Tokenizer"})", "fuzz"), "fuzz");
  const auto ids = tokenizer.encode("hello  \xf0\x9f\x90\x88 <|im_end|>\xff 42", true);
  for (const std::int32_t id : ids)
    if (id < 0 || id >= tokenizer.size()) __builtin_trap();
  tokenizer.decode(ids, true);
}

void write_seeds(const std::filesystem::path& folder) {
  std::vector<std::string> pieces;
  for (int byte = 0; byte < 256; ++byte) pieces.emplace_back(1, static_cast<char>(byte));
  for (const char* piece : {"he", "ll", "hell", "hello", "\xf0\x9f", " 4"}) pieces.emplace_back(piece);
  std::string file;
  for (std::size_t i = 0; i < pieces.size(); ++i) file += encode_base64(pieces[i]) + " " + std::to_string(i) + "\n";
  write_file_atomic(folder / "ranks", file);
}

}  // namespace pocketvlm
