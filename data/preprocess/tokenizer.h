#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

enum class TokenType : std::int32_t {  // the numbers are GGUF's and sentencepiece's
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// Everything a vocabulary file says. What the exporter writes into GGUF and the phone reads back.
struct Vocabulary {
  std::string model;  // "llama": sentencepiece BPE; "gpt2": byte-level BPE
  std::string pre;    // split rule of byte-level BPE: "llama-bpe", "qwen2", "smollm"; of sentencepiece "default",
                      // or a kMetaspace rule: where the tokenizers library puts the dummy prefix
  std::vector<std::string> pieces;  // sentencepiece pieces with U+2581, or GPT-2 byte spelling
  std::vector<float> scores;        // sentencepiece only
  std::vector<TokenType> types;
  std::vector<std::string> merges;  // byte-level BPE only: "left right" in rank order
  std::int32_t bos_id = -1;
  std::int32_t eos_id = -1;
  std::int32_t unk_id = -1;
  std::int32_t pad_id = -1;
  bool add_bos = true;           // text begins with BOS (byte-level vocabularies may say no)
  bool add_space_prefix = true;  // sentencepiece's dummy prefix
  bool nfc = false;              // byte-level: text is put into normal form C first (Qwen2)
  bool whole_words = false;      // byte-level: a word that is a piece is taken as it is, whatever the merges (Llama 3)
  bool remove_extra_whitespaces =
      false;  // sentencepiece: runs of spaces become one, ends are trimmed
};

/// Which pieces written in a text become ids as a whole.
enum class SpecialPieces {
  /// None that looks like markup, `<...>` or `[...]`: text of a user, who must not write markers.
  /// Other user-defined pieces (runs of spaces, digits) are ordinary text and still match.
  kNone,
  /// User-defined pieces, as the sentencepiece library and llama.cpp do for plain text.
  kUserDefined,
  /// Control and unknown pieces, too.
  kAll,
};

struct EncodeOptions {
  SpecialPieces specials = SpecialPieces::kUserDefined;
  bool space_prefix = true;  // false: this text continues another one, so no dummy prefix
};

/// Text to ids and back; one implementation for trainer and phone, without libraries.
/// Thread-safe after construction.
class Tokenizer {
 public:
  /// Throws Error when the vocabulary contradicts itself (sizes differ, pieces repeat, no byte
  /// fallback pieces although types name some).
  explicit Tokenizer(Vocabulary vocabulary, const std::string& where = "vocabulary");
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// `path`: a sentencepiece .model, a tokenizer.json, a tiktoken file, a folder that holds one of them, or a .gguf file.
  static Tokenizer load(const std::string& path);

  /// Encodes plain text; no BOS or EOS is added. User-defined pieces written in the text become
  /// their ids; with `parse_specials` control and unknown pieces, too. Each byte of invalid UTF-8
  /// becomes U+FFFD, as in the sentencepiece library. The dummy prefix stands where a text begins: at
  /// the start and after a control piece, as in llama.cpp and the tokenizers library.
  std::vector<std::int32_t> encode(std::string_view text, bool parse_specials = false) const;
  std::vector<std::int32_t> encode(std::string_view text, const EncodeOptions& options) const;

  /// Concatenates the text of ids, without the dummy prefix; control pieces are left out unless
  /// `keep_specials`. Bytes that are no UTF-8 become U+FFFD. Ids outside the vocabulary throw
  /// Error.
  std::string decode(std::span<const std::int32_t> ids, bool keep_specials = false) const;

  /// Bytes that one id adds to running text, for streaming: a space for U+2581, the byte of a byte
  /// piece, nothing for control pieces. Not always whole UTF-8 characters.
  std::string piece_text(std::int32_t id) const;

  std::int32_t size() const;
  std::optional<std::int32_t> find(std::string_view piece) const;
  /// Throws Error when the piece is not in the vocabulary.
  std::int32_t require(std::string_view piece) const;
  const Vocabulary& vocabulary() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads a sentencepiece model file (protobuf) without the library. Unigram models are refused.
Vocabulary read_sentencepiece_model(std::span<const std::byte> bytes, const std::string& where);

}  // namespace pocketvlm
