#include "data/preprocess/tokenizer.h"

#include <filesystem>
#include <unordered_map>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/byte_level_bpe.h"
#include "data/preprocess/gguf_vocabulary.h"
#include "data/preprocess/piece_matcher.h"
#include "data/preprocess/sentencepiece_bpe.h"
#include "data/preprocess/tiktoken_file.h"
#include "data/preprocess/tokenizer_json.h"
#include "data/preprocess/token_text.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

constexpr std::string_view kUnknownText =
    " \xE2\x81\x87 ";  // what sentencepiece writes for the unknown id

void check_id(std::int32_t id,
              const char* name,
              const Vocabulary& vocabulary,
              const std::string& where) {
  PV_CHECK(id >= -1 && id < static_cast<std::int64_t>(vocabulary.pieces.size()),
           "{}: {} is {}, but the vocabulary has {} pieces",
           where,
           name,
           id,
           vocabulary.pieces.size());
}

void check_vocabulary(const Vocabulary& vocabulary, const std::string& where) {
  const std::size_t size = vocabulary.pieces.size();
  PV_CHECK(vocabulary.model == "llama" || vocabulary.model == "gpt2",
           "{}: the vocabulary model \"{}\" is not supported; supported are llama (sentencepiece "
           "BPE) and gpt2 (byte-level BPE)",
           where,
           vocabulary.model);
  PV_CHECK(size > 0, "{}: the vocabulary has no pieces", where);
  PV_CHECK(vocabulary.types.size() == size,
           "{}: {} pieces, but {} types",
           where,
           size,
           vocabulary.types.size());
  if (vocabulary.model == "llama") {
    PV_CHECK(vocabulary.scores.size() == size,
             "{}: {} pieces, but {} scores",
             where,
             size,
             vocabulary.scores.size());
    PV_CHECK(vocabulary.unk_id >= 0, "{}: no unknown piece", where);
  }
  check_id(vocabulary.bos_id, "bos_id", vocabulary, where);
  check_id(vocabulary.eos_id, "eos_id", vocabulary, where);
  check_id(vocabulary.unk_id, "unk_id", vocabulary, where);
  check_id(vocabulary.pad_id, "pad_id", vocabulary, where);
  bool has_bytes[256] = {};
  std::size_t num_bytes = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (!vocabulary.scores.empty()) {
      PV_CHECK(vocabulary.scores[i] == vocabulary.scores[i],
               "{}: the score of piece {} is not a number",
               where,
               i);
    }
    PV_CHECK(!vocabulary.pieces[i].empty(), "{}: piece {} is empty", where, i);
    if (vocabulary.types[i] != TokenType::kByte) continue;
    const int byte = byte_of_piece(vocabulary.pieces[i]);
    PV_CHECK(byte >= 0,
             "{}: piece {} is of type byte, but \"{}\" is no byte like <0x0A>",
             where,
             i,
             vocabulary.pieces[i]);
    num_bytes += has_bytes[byte] ? 0 : 1;
    has_bytes[byte] = true;
  }
  PV_CHECK(num_bytes == 0 || num_bytes == 256,
           "{}: only {} of the 256 byte pieces are there",
           where,
           num_bytes);
}

/// The file of a folder that holds its vocabulary.
std::string vocabulary_file(const std::string& folder) {
  namespace fs = std::filesystem;
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    if (fs::exists(fs::path(folder) / name)) return (fs::path(folder) / name).string();
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".tiktoken") return entry.path().string();
  }
  fail("{}: no tokenizer.model, tokenizer.json or .tiktoken file is in this folder", folder);
}

}  // namespace

struct Tokenizer::State {
  Vocabulary vocabulary;
  std::unordered_map<std::string_view, std::int32_t> ids;
  PieceMatcher ordinary;  // user-defined pieces that do not look like markup
  PieceMatcher user_defined;
  PieceMatcher specials;  // user-defined, control and unknown pieces
  std::optional<SentencePieceBpe> sentencepiece;
  std::optional<ByteLevelBpe> byte_level;

  bool is_user_defined(std::int32_t id) const { return type(id) == TokenType::kUserDefined; }
  TokenType type(std::int32_t id) const { return vocabulary.types[static_cast<std::size_t>(id)]; }
  void encode_text(std::string_view text,
                   const EncodeOptions& options,
                   bool text_begins,
                   std::vector<std::int32_t>& out) const {
    if (text.empty()) return;
    if (byte_level) return byte_level->encode(text, out);
    const bool has_space = is_metaspace() && (text.starts_with(' ') || text.starts_with(kSpaceMark));
    sentencepiece->encode(text,
                          vocabulary.add_space_prefix && text_begins && !has_space,
                          options.specials == SpecialPieces::kNone,
                          out);
  }
  bool is_metaspace() const { return vocabulary.pre == kMetaspace || vocabulary.pre == kMetaspaceFirst; }
};

Tokenizer::Tokenizer(Vocabulary vocabulary, const std::string& where)
    : state_(std::make_unique<State>()) {
  check_vocabulary(vocabulary, where);
  state_->vocabulary = std::move(vocabulary);
  const Vocabulary& kept = state_->vocabulary;
  state_->ids.reserve(kept.pieces.size());
  for (std::size_t i = 0; i < kept.pieces.size(); ++i) {
    const std::string_view piece = kept.pieces[i];
    const auto id = static_cast<std::int32_t>(i);
    const auto [place, is_new] = state_->ids.emplace(piece, id);
    PV_CHECK(is_new, "{}: pieces {} and {} are both \"{}\"", where, place->second, i, piece);
    const TokenType type = kept.types[i];
    if (type == TokenType::kUserDefined) {
      state_->user_defined.add(piece, id);
      if (!looks_like_markup(piece)) state_->ordinary.add(piece, id);
    }
    if (type == TokenType::kUserDefined || type == TokenType::kControl ||
        type == TokenType::kUnknown) {
      state_->specials.add(piece, id);
    }
  }
  if (kept.model == "llama") {
    state_->sentencepiece.emplace(kept);
  } else {
    state_->byte_level.emplace(kept, where);
  }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& path) {
  namespace fs = std::filesystem;
  const std::string file = fs::is_directory(path) ? vocabulary_file(path) : path;
  const MappedFile bytes(file);
  const std::span<const std::byte> view(bytes.data(), bytes.size());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("GGUF") || file.ends_with(".gguf")) return Tokenizer(read_gguf_vocabulary(view, file), file);
  const fs::path beside = fs::path(file).parent_path() / "tokenizer_config.json";
  const auto settings = [&] { return fs::exists(beside) ? read_file(beside.string()) : std::string(); };
  if (file.ends_with(".json")) return Tokenizer(read_tokenizer_json(text, settings(), file), file);
  if (is_tiktoken_file(text)) return Tokenizer(read_tiktoken_file(text, settings(), file), file);
  return Tokenizer(read_sentencepiece_model(view, file), file);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool parse_specials) const {
  EncodeOptions options;
  if (parse_specials) options.specials = SpecialPieces::kAll;
  return encode(text, options);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text,
                                            const EncodeOptions& options) const {
  const State& state = *state_;
  const PieceMatcher& matcher = options.specials == SpecialPieces::kAll ? state.specials
                                : options.specials == SpecialPieces::kUserDefined
                                    ? state.user_defined
                                    : state.ordinary;
  std::vector<std::int32_t> ids;
  std::size_t part = 0;
  bool text_begins = options.space_prefix;
  for (std::size_t at = 0; at < text.size();) {
    const auto match = matcher.find(text.substr(at));
    if (match.id < 0) {
      ++at;
      continue;
    }
    // Sentencepiece keeps user-defined pieces in the text while it normalises: they are no cut.
    if (!(state.sentencepiece && state.is_user_defined(match.id))) {
      state.encode_text(text.substr(part, at - part), options, text_begins, ids);
      ids.push_back(match.id);
      part = at + match.size;
      text_begins = state.vocabulary.pre != kMetaspaceFirst;
    }
    at += match.size;
  }
  state.encode_text(text.substr(part), options, text_begins, ids);
  return ids;
}

std::string Tokenizer::piece_text(std::int32_t id) const {
  PV_CHECK(id >= 0 && id < size(), "token id {} is outside the vocabulary of {}", id, size());
  const std::string& piece = state_->vocabulary.pieces[static_cast<std::size_t>(id)];
  const TokenType type = state_->type(id);
  if (type == TokenType::kControl) return {};
  if (type == TokenType::kByte) return std::string(1, static_cast<char>(byte_of_piece(piece)));
  if (state_->byte_level) {
    return type == TokenType::kNormal ? state_->byte_level->bytes_of(piece) : piece;
  }
  if (type == TokenType::kUnknown) return std::string(kUnknownText);
  std::string text;
  for (std::string_view rest = piece; !rest.empty();) {
    if (rest.starts_with(kSpaceMark)) {
      text += ' ';
      rest.remove_prefix(kSpaceMark.size());
    } else {
      text += rest.front();
      rest.remove_prefix(1);
    }
  }
  return text;
}

std::string TokenText::of(std::int32_t id) const {
  std::string text = tokenizer_.piece_text(id);
  const Vocabulary& vocabulary = tokenizer_.vocabulary();
  const bool has_prefix = vocabulary.add_space_prefix || vocabulary.remove_extra_whitespaces;
  if (at_start_ && has_prefix && type_of(id) != TokenType::kUnknown && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

void TokenText::add(std::int32_t id) {
  if (type_of(id) == TokenType::kControl) return;
  if (!tokenizer_.vocabulary().remove_extra_whitespaces || !of(id).empty()) at_start_ = false;
}

TokenType TokenText::type_of(std::int32_t id) const {
  return tokenizer_.vocabulary().types[static_cast<std::size_t>(id)];
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool keep_specials) const {
  std::string text;
  TokenText running(*this);
  for (const std::int32_t id : ids) {
    const TokenType type = state_->type(id);
    const bool special = type == TokenType::kControl || type == TokenType::kUnknown;
    text += special && keep_specials ? state_->vocabulary.pieces[static_cast<std::size_t>(id)] : running.of(id);
    running.add(id);
  }
  return replace_invalid_utf8(text);
}

std::int32_t Tokenizer::size() const {
  return static_cast<std::int32_t>(state_->vocabulary.pieces.size());
}

std::optional<std::int32_t> Tokenizer::find(std::string_view piece) const {
  const auto found = state_->ids.find(piece);
  if (found == state_->ids.end()) return std::nullopt;
  return found->second;
}

std::int32_t Tokenizer::require(std::string_view piece) const {
  const auto id = find(piece);
  PV_CHECK(id.has_value(),
           "the vocabulary of {} pieces has no piece \"{}\"; use one that has it, or train one "
           "with it among the special pieces",
           size(),
           piece);
  return *id;
}

const Vocabulary& Tokenizer::vocabulary() const { return state_->vocabulary; }

}  // namespace pocketvlm
