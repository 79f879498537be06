#include "data/preprocess/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// More places than any real vocabulary has: a hostile id may not ask for memory.
constexpr std::int64_t kMaxPieces = std::int64_t{1} << 22;

std::int32_t id_of(const Vocabulary& vocabulary, const std::string& piece) {
  const auto found = std::find(vocabulary.pieces.begin(), vocabulary.pieces.end(), piece);
  return found == vocabulary.pieces.end() ? -1 : static_cast<std::int32_t>(found - vocabulary.pieces.begin());
}

/// Tokens are strings, or objects with "content". Leaves `id` alone when the key is not there.
void name_token(const Json& config, const char* key, const Vocabulary& vocabulary, std::int32_t& id) {
  if (!config.contains(key)) return;
  const Json& token = config[key];
  if (token.is_string()) id = id_of(vocabulary, token.get<std::string>());
  if (token.is_null()) id = -1;
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    id = id_of(vocabulary, token["content"].get<std::string>());
  }
}

void add_tokens(const Json& tokens, const std::string& where, Vocabulary& vocabulary) {
  PV_CHECK(tokens.is_object(), "{}: added_tokens_decoder is not an object", where);
  for (auto item = tokens.begin(); item != tokens.end(); ++item) {
    std::int64_t id = -1;
    const std::string& key = item.key();
    const auto end = std::from_chars(key.data(), key.data() + key.size(), id);
    PV_CHECK(end.ec == std::errc() && end.ptr == key.data() + key.size() && item.value().is_object() &&
                 item.value().contains("content") && item.value()["content"].is_string(),
             "{}: added_tokens_decoder: \"{}\" is not an id with an object that has \"content\"",
             where,
             key);
    const bool special = item.value().contains("special") && item.value()["special"] == true;
    const auto content = item.value()["content"].get<std::string>();
    const bool known = id >= 0 && id < static_cast<std::int64_t>(vocabulary.pieces.size()) &&
                       vocabulary.pieces[static_cast<std::size_t>(id)] == content;
    if (known) continue;
    place_piece(vocabulary, id, content, special ? TokenType::kControl : TokenType::kUserDefined, where, "added token \"" + content + "\"");
  }
}

}  // namespace

void place_piece(Vocabulary& vocabulary,
                 std::int64_t id,
                 const std::string& piece,
                 TokenType type,
                 const std::string& where,
                 const std::string& what) {
  PV_CHECK(id >= 0 && id < kMaxPieces, "{}: {} has the id {}; ids are whole numbers from 0 to {}", where, what, id, kMaxPieces - 1);
  const auto place = static_cast<std::size_t>(id);
  for (std::size_t i = vocabulary.pieces.size(); i <= place; ++i) {
    vocabulary.pieces.push_back(fmt::format("[PAD{}]", i));
    vocabulary.types.push_back(TokenType::kUnused);
  }
  PV_CHECK(vocabulary.types[place] == TokenType::kUnused || vocabulary.pieces[place] == piece,
           "{}: {} has the id {}, which \"{}\" has, too",
           where,
           what,
           id,
           vocabulary.pieces[place]);
  vocabulary.pieces[place] = piece;
  vocabulary.types[place] = type;
}

Json parse_tokenizer_config(std::string_view text, const std::string& where) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    fail("{}: is no JSON: {}; fetch the file again", where, error.what());
  }
}

void apply_tokenizer_config(std::string_view text, const std::string& where, Vocabulary& vocabulary) {
  if (text.empty()) return;
  const std::string file = where + " (tokenizer_config.json)";
  const Json config = parse_tokenizer_config(text, file);
  PV_CHECK(config.is_object(), "{}: expected an object, got {}", file, config.type_name());
  if (config.contains("added_tokens_decoder")) add_tokens(config["added_tokens_decoder"], file, vocabulary);
  name_token(config, "bos_token", vocabulary, vocabulary.bos_id);
  name_token(config, "eos_token", vocabulary, vocabulary.eos_id);
  name_token(config, "pad_token", vocabulary, vocabulary.pad_id);
  if (vocabulary.unk_id < 0) name_token(config, "unk_token", vocabulary, vocabulary.unk_id);
  if (config.contains("add_bos_token") && config["add_bos_token"].is_boolean()) {
    vocabulary.add_bos = config["add_bos_token"].get<bool>();
  }
}

}  // namespace pocketvlm
