#include "data/preprocess/tokenizer_json.h"

#include "base/files.h"
#include "base/json.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {
namespace {

// A byte-level vocabulary of 256 bytes and a few merges, as the tokenizers library writes it.
Json byte_level() {
  Json vocabulary = Json::object();
  int next = 0;
  for (int byte = 0, shifted = 256; byte < 256; ++byte) {
    const bool shown = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int point = shown ? byte : shifted++;
    std::string text;
    if (point < 0x80) text = static_cast<char>(point);
    else text = {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 63))};
    vocabulary[text] = next++;
  }
  for (const char* piece : {"he", "ll", "hell"}) vocabulary[piece] = next++;
  return {{"added_tokens", {{{"id", next}, {"content", "<|end|>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern",
                {{"Regex",
                  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"h e", "l l", "he ll"}}}}};
}

}  // namespace

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const Tokenizer tokenizer(read_tokenizer_json(text, "", "fuzz"), "fuzz");
  const auto ids = tokenizer.encode("hello  \xf0\x9f\x90\x88 <|end|>\xff 42", true);
  tokenizer.decode(ids, true);
}

void write_seeds(const std::filesystem::path& folder) { write_file_atomic(folder / "byte_level", byte_level().dump()); }

}  // namespace pocketvlm
