#include "data/preprocess/gguf_vocabulary.h"

#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "data/preprocess/sentencepiece_bpe.h"

namespace pocketvlm {
namespace {

enum Kind : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};
constexpr std::size_t kKindBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr const char* kKindNames[] = {"uint8",
                                      "int8",
                                      "uint16",
                                      "int16",
                                      "uint32",
                                      "int32",
                                      "float32",
                                      "bool",
                                      "string",
                                      "array",
                                      "uint64",
                                      "int64",
                                      "float64"};

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  std::string_view take(std::uint64_t size) {
    PV_CHECK(
        size <= bytes_.size() - at_,
        "{}: cut off at byte {}: {} bytes are needed for {}, {} are left; fetch the file again",
        where_,
        at_,
        size,
        place_,
        bytes_.size() - at_);
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    at_ += size;
    return {begin, size};
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text() { return take(number<std::uint64_t>()); }
  Kind kind() {
    const auto value = number<std::uint32_t>();
    PV_CHECK(value <= kFloat64,
             "{}: {} has value type {}, which does not exist; fetch the file again",
             where_,
             place_,
             value);
    return static_cast<Kind>(value);
  }
  /// An array may not claim more elements than the file can hold.
  std::uint64_t count(Kind element) {
    const auto size = number<std::uint64_t>();
    const std::size_t least = element == kString || element == kArray ? 8 : kKindBytes[element];
    PV_CHECK(size <= (bytes_.size() - at_) / least,
             "{}: {} claims {} elements, more than the file holds; fetch the file again",
             where_,
             place_,
             size);
    return size;
  }
  void skip(Kind kind, int depth = 0) {
    if (kind == kString) {
      text();
    } else if (kind == kArray) {
      PV_CHECK(depth < 4, "{}: {} nests arrays too deeply; fetch the file again", where_, place_);
      const Kind element = this->kind();
      const std::uint64_t size = count(element);
      if (element == kString || element == kArray) {
        for (std::uint64_t i = 0; i < size; ++i) skip(element, depth + 1);
      } else {
        take(size * kKindBytes[element]);
      }
    } else {
      take(kKindBytes[kind]);
    }
  }

  std::string place_ = "the header";  // named in errors

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  std::size_t at_ = 0;
};

class VocabularyReader {
 public:
  VocabularyReader(std::span<const std::byte> bytes, const std::string& where)
      : reader_(bytes, where), where_(where) {}

  Vocabulary read() {
    PV_CHECK(
        reader_.take(4) == "GGUF", "{}: does not start with GGUF; is this a GGUF file?", where_);
    const auto version = reader_.number<std::uint32_t>();
    PV_CHECK(version == 2 || version == 3,
             "{}: GGUF version {}; versions 2 and 3 (little-endian) are supported",
             where_,
             version);
    reader_.number<std::uint64_t>();  // tensors
    const auto num_keys = reader_.number<std::uint64_t>();
    for (std::uint64_t i = 0; i < num_keys; ++i) {
      reader_.place_ = fmt::format("key {}", i);
      reader_.place_ = std::string(reader_.text());
      read_value(reader_.kind());
    }
    return finish();
  }

 private:
  void read_value(Kind kind) {
    const std::string& key = reader_.place_;
    if (key == "tokenizer.ggml.model")
      vocabulary_.model = text(kind);
    else if (key == "tokenizer.ggml.pre")
      vocabulary_.pre = text(kind);
    else if (key == "tokenizer.ggml.tokens")
      vocabulary_.pieces = texts(kind);
    else if (key == "tokenizer.ggml.merges")
      vocabulary_.merges = texts(kind);
    else if (key == "tokenizer.ggml.scores")
      vocabulary_.scores = numbers<float>(kind, kFloat32);
    else if (key == "tokenizer.ggml.token_type")
      types_ = numbers<std::int32_t>(kind, kInt32);
    else if (key == "tokenizer.ggml.bos_token_id")
      vocabulary_.bos_id = id(kind);
    else if (key == "tokenizer.ggml.eos_token_id")
      vocabulary_.eos_id = id(kind);
    else if (key == "tokenizer.ggml.unknown_token_id")
      vocabulary_.unk_id = id(kind);
    else if (key == "tokenizer.ggml.padding_token_id")
      vocabulary_.pad_id = id(kind);
    else if (key == "tokenizer.ggml.add_bos_token")
      add_bos_ = flag(kind), has_add_bos_ = true;
    else if (key == "tokenizer.ggml.add_space_prefix")
      vocabulary_.add_space_prefix = flag(kind);
    else if (key == "tokenizer.ggml.remove_extra_whitespaces")
      vocabulary_.remove_extra_whitespaces = flag(kind);
    else if (key == kGgufSpacePrefixKey)
      space_prefix_ = flag(kind);
    else if (key == kGgufNfcKey)
      nfc_ = flag(kind);
    else if (key == kGgufWholeWordsKey)
      whole_words_ = flag(kind);
    else if (key == "tokenizer.ggml.precompiled_charsmap") {
      fail(
          "{}: {}: a normaliser that rewrites characters is not supported; use a vocabulary with "
          "the identity normaliser",
          where_,
          key);
    } else
      reader_.skip(kind);
  }

  void expect(Kind kind, Kind wanted) const {
    PV_CHECK(kind == wanted,
             "{}: {} is of type {}, not {}; write the file again",
             where_,
             reader_.place_,
             kKindNames[kind],
             kKindNames[wanted]);
  }
  std::string text(Kind kind) {
    expect(kind, kString);
    return std::string(reader_.text());
  }
  bool flag(Kind kind) {
    expect(kind, kBool);
    return reader_.number<std::uint8_t>() != 0;
  }
  std::int32_t id(Kind kind) {
    if (kind == kInt32) return reader_.number<std::int32_t>();
    expect(kind, kUint32);
    const auto value = reader_.number<std::uint32_t>();
    PV_CHECK(value <= 0x7FFFFFFF,
             "{}: {} = {} is no token id; write the file again",
             where_,
             reader_.place_,
             value);
    return static_cast<std::int32_t>(value);
  }
  std::vector<std::string> texts(Kind kind) {
    expect(kind, kArray);
    const Kind element = reader_.kind();
    expect(element, kString);
    std::vector<std::string> list(reader_.count(element));
    for (std::string& item : list) item = reader_.text();
    return list;
  }
  template <typename T>
  std::vector<T> numbers(Kind kind, Kind wanted) {
    expect(kind, kArray);
    const Kind element = reader_.kind();
    // Some writers store token types as uint32.
    if (!(wanted == kInt32 && element == kUint32)) expect(element, wanted);
    std::vector<T> list(reader_.count(element));
    const std::string_view bytes = reader_.take(list.size() * sizeof(T));
    if (!list.empty()) std::memcpy(list.data(), bytes.data(), bytes.size());
    return list;
  }

  Vocabulary finish() {
    PV_CHECK(!vocabulary_.model.empty() && !vocabulary_.pieces.empty(),
             "{}: holds no vocabulary (tokenizer.ggml.model and tokenizer.ggml.tokens); give the "
             "file of the language model",
             where_);
    if (types_.empty()) types_.assign(vocabulary_.pieces.size(), 1);
    for (std::size_t i = 0; i < types_.size(); ++i) {
      PV_CHECK(types_[i] >= 1 && types_[i] <= 6,
               "{}: tokenizer.ggml.token_type[{}] = {}; types are 1 to 6",
               where_,
               i,
               types_[i]);
      vocabulary_.types.push_back(static_cast<TokenType>(types_[i]));
    }
    if (vocabulary_.model == "llama") {
      if (vocabulary_.pre != kMetaspace && vocabulary_.pre != kMetaspaceFirst) vocabulary_.pre = "default";
      vocabulary_.add_space_prefix = space_prefix_.value_or(vocabulary_.add_space_prefix);
      if (vocabulary_.bos_id < 0) vocabulary_.bos_id = 1;
      if (vocabulary_.eos_id < 0) vocabulary_.eos_id = 2;
      if (vocabulary_.unk_id < 0) vocabulary_.unk_id = 0;
      // GGUF spells spaces of user-defined pieces as spaces, sentencepiece as U+2581.
      for (std::size_t i = 0; i < vocabulary_.types.size() && i < vocabulary_.pieces.size(); ++i) {
        if (vocabulary_.types[i] != TokenType::kUserDefined) continue;
        std::string& piece = vocabulary_.pieces[i];
        for (std::size_t at = piece.find(' '); at != std::string::npos; at = piece.find(' ', at)) {
          piece.replace(at, 1, kSpaceMark);
        }
      }
    } else {
      vocabulary_.add_space_prefix = false;
      vocabulary_.scores.clear();
      // GGUF has no keys of its own for these two: the split rule stands for the published vocabulary.
      vocabulary_.nfc = nfc_.value_or(vocabulary_.pre == "qwen2");
      vocabulary_.whole_words = whole_words_.value_or(vocabulary_.pre == "llama-bpe");
    }
    vocabulary_.add_bos =
        has_add_bos_ ? add_bos_ : vocabulary_.model == "llama" || vocabulary_.pre == "llama-bpe";
    return std::move(vocabulary_);
  }

  Reader reader_;
  const std::string& where_;
  Vocabulary vocabulary_;
  std::vector<std::int32_t> types_;
  bool add_bos_ = false;
  bool has_add_bos_ = false;
  std::optional<bool> nfc_, whole_words_, space_prefix_;
};

}  // namespace

Vocabulary read_gguf_vocabulary(std::span<const std::byte> bytes, const std::string& where) {
  return VocabularyReader(bytes, where).read();
}

}  // namespace pocketvlm
