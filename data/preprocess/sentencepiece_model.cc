#include <cstring>

#include "base/error.h"
#include "data/preprocess/tokenizer.h"

/// The fields of sentencepiece_model.proto that matter here, read straight from the wire format.
namespace pocketvlm {
namespace {

/// Walks the fields of one protobuf message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  /// Goes to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::uint64_t key = varint();
    field_ = static_cast<std::uint32_t>(key >> 3);
    PV_CHECK(key >> 3 >= 1 && key >> 3 < (1u << 29),
             "{}: field number {} is damaged; fetch the file again",
             where_,
             key >> 3);
    wire_ = static_cast<int>(key & 7);
    switch (wire_) {
      case 0:
        number_ = varint();
        break;
      case 1:
        text_ = take(8);
        break;
      case 2:
        text_ = take(varint());
        break;
      case 5:
        text_ = take(4);
        break;
      default:
        fail("{}: wire type {} is damaged; fetch the file again", where_, wire_);
    }
    return true;
  }

  std::uint32_t field() const { return field_; }
  std::int64_t number() const { return expect(0), static_cast<std::int64_t>(number_); }
  std::string_view text() const { return expect(2), text_; }
  float real() const {
    expect(5);
    float value = 0;
    std::memcpy(&value, text_.data(), sizeof value);
    return value;
  }

 private:
  void expect(int wire) const {
    PV_CHECK(wire_ == wire,
             "{}: field {} has wire type {}, not {}; is this a sentencepiece model?",
             where_,
             field_,
             wire_,
             wire);
  }
  std::string_view take(std::uint64_t size) {
    PV_CHECK(size <= bytes_.size() - at_,
             "{}: cut off: field {} needs {} bytes, {} are left; fetch the file again",
             where_,
             field_,
             size,
             bytes_.size() - at_);
    const std::string_view part = bytes_.substr(at_, size);
    at_ += size;
    return part;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("{}: a number has more than ten bytes; fetch the file again", where_);
  }

  std::string_view bytes_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::uint32_t field_ = 0;
  int wire_ = 0;
  std::uint64_t number_ = 0;
  std::string_view text_;
};

struct TrainerSpec {
  std::int64_t model_type = 1;  // unigram, the format's default
  bool whitespace_as_suffix = false;
  bool byte_fallback = false;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string pad_piece = "<pad>";
};

struct NormalizerSpec {
  std::string name;
  std::size_t rule_bytes = 0;  // of the compiled character map; none for identity
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

void read_piece(std::string_view bytes, const std::string& where, Vocabulary& vocabulary) {
  std::string piece;
  float score = 0;
  std::int64_t type = 1;
  Message message(bytes, where);
  while (message.next()) {
    switch (message.field()) {
      case 1:
        piece = message.text();
        break;
      case 2:
        score = message.real();
        break;
      case 3:
        type = message.number();
        break;
      default:
        break;
    }
  }
  PV_CHECK(type >= 1 && type <= 6,
           "{}: piece {} has type {}, which does not exist; fetch the file again",
           where,
           vocabulary.pieces.size(),
           type);
  vocabulary.pieces.push_back(std::move(piece));
  vocabulary.scores.push_back(score);
  vocabulary.types.push_back(static_cast<TokenType>(type));
}

TrainerSpec read_trainer_spec(std::string_view bytes, const std::string& where) {
  TrainerSpec spec;
  Message message(bytes, where);
  while (message.next()) {
    switch (message.field()) {
      case 3:
        spec.model_type = message.number();
        break;
      case 24:
        spec.whitespace_as_suffix = message.number() != 0;
        break;
      case 35:
        spec.byte_fallback = message.number() != 0;
        break;
      case 46:
        spec.bos_piece = message.text();
        break;
      case 47:
        spec.eos_piece = message.text();
        break;
      case 48:
        spec.pad_piece = message.text();
        break;
      default:
        break;
    }
  }
  return spec;
}

NormalizerSpec read_normalizer_spec(std::string_view bytes, const std::string& where) {
  NormalizerSpec spec;
  Message message(bytes, where);
  while (message.next()) {
    switch (message.field()) {
      case 1:
        spec.name = message.text();
        break;
      case 2:
        spec.rule_bytes = message.text().size();
        break;
      case 3:
        spec.add_dummy_prefix = message.number() != 0;
        break;
      case 4:
        spec.remove_extra_whitespaces = message.number() != 0;
        break;
      case 5:
        spec.escape_whitespaces = message.number() != 0;
        break;
      default:
        break;
    }
  }
  return spec;
}

std::int32_t control_id(const Vocabulary& vocabulary, const std::string& piece) {
  for (std::size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    if (vocabulary.types[i] == TokenType::kControl && vocabulary.pieces[i] == piece) {
      return static_cast<std::int32_t>(i);
    }
  }
  return -1;
}

}  // namespace

Vocabulary read_sentencepiece_model(std::span<const std::byte> bytes, const std::string& where) {
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.pre = "default";
  TrainerSpec trainer;
  NormalizerSpec normalizer;
  Message model({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, where);
  while (model.next()) {
    switch (model.field()) {
      case 1:
        read_piece(model.text(), where, vocabulary);
        break;
      case 2:
        trainer = read_trainer_spec(model.text(), where);
        break;
      case 3:
        normalizer = read_normalizer_spec(model.text(), where);
        break;
      default:
        break;
    }
  }
  PV_CHECK(!vocabulary.pieces.empty(), "{}: no pieces; is this a sentencepiece model?", where);
  static constexpr const char* kModelTypes[] = {"?", "unigram", "bpe", "word", "char"};
  PV_CHECK(trainer.model_type == 2,
           "{}: the model type is {}; only bpe is supported: train with --model_type=bpe",
           where,
           trainer.model_type >= 1 && trainer.model_type <= 4 ? kModelTypes[trainer.model_type]
                                                              : "unknown");
  PV_CHECK(normalizer.rule_bytes == 0,
           "{}: the normaliser \"{}\" rewrites characters; only identity is supported: train with "
           "--normalization_rule_name=identity",
           where,
           normalizer.name);
  PV_CHECK(normalizer.escape_whitespaces && !trainer.whitespace_as_suffix,
           "{}: whitespace must be escaped and stand at the start of pieces: train without "
           "--treat_whitespace_as_suffix and with --escape_whitespaces",
           where);
  bool has_byte_pieces = false;
  for (std::size_t i = 0; i < vocabulary.types.size(); ++i) {
    if (vocabulary.types[i] == TokenType::kByte) has_byte_pieces = true;
    if (vocabulary.types[i] != TokenType::kUnknown) continue;
    PV_CHECK(vocabulary.unk_id < 0,
             "{}: pieces {} and {} are both the unknown piece; there must be one",
             where,
             vocabulary.unk_id,
             i);
    vocabulary.unk_id = static_cast<std::int32_t>(i);
  }
  PV_CHECK(vocabulary.unk_id >= 0, "{}: no unknown piece; is this a sentencepiece model?", where);
  PV_CHECK(has_byte_pieces == trainer.byte_fallback,
           "{}: byte fallback is {}, but byte pieces are {}; train the model again",
           where,
           trainer.byte_fallback ? "on" : "off",
           has_byte_pieces ? "present" : "missing");
  vocabulary.bos_id = control_id(vocabulary, trainer.bos_piece);
  vocabulary.eos_id = control_id(vocabulary, trainer.eos_piece);
  vocabulary.pad_id = control_id(vocabulary, trainer.pad_piece);
  vocabulary.add_space_prefix = normalizer.add_dummy_prefix;
  vocabulary.remove_extra_whitespaces = normalizer.remove_extra_whitespaces;
  return vocabulary;
}

}  // namespace pocketvlm
