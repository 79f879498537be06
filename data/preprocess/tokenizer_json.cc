#include "data/preprocess/tokenizer_json.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"

namespace pocketvlm {
namespace {

/// More places than any real vocabulary has: a hostile id may not ask for memory.
constexpr std::int64_t kMaxPieces = std::int64_t{1} << 22;

class TokenizerJson {
 public:
  TokenizerJson(const Json& json, const std::string& where) : json_(json), where_(where) {
    PV_CHECK(json_.is_object() && json_.contains("model") && json_["model"].is_object(),
             "{}: no \"model\" object; is this a tokenizer.json of the tokenizers library?",
             where_);
    model_ = &json_["model"];
    const std::string type = model_->value("type", "BPE");
    PV_CHECK(type == "BPE", "{}: model.type \"{}\" is not supported; only BPE is", where_, type);
  }

  Vocabulary read() {
    const bool byte_fallback = model_->contains("byte_fallback") && (*model_)["byte_fallback"] == true;
    vocabulary_.model = byte_fallback ? "llama" : "gpt2";
    vocabulary_.pre = byte_fallback ? "default" : split_rule_name();
    vocabulary_.add_space_prefix = byte_fallback;
    vocabulary_.add_bos = byte_fallback || vocabulary_.pre == "llama-bpe";
    read_pieces();
    read_merges();
    read_added();
    fill_holes();
    if (byte_fallback) become_sentencepiece();
    return std::move(vocabulary_);
  }

 private:
  std::size_t place_of(const Json& id, const std::string& what) {
    PV_CHECK(id.is_number_integer() && id.get<double>() >= 0 && id.get<double>() < static_cast<double>(kMaxPieces),
             "{}: {} has the id {}; ids are whole numbers from 0 to {}",
             where_,
             what,
             id.dump(),
             kMaxPieces - 1);
    const auto place = id.get<std::size_t>();
    if (place >= vocabulary_.pieces.size()) {
      vocabulary_.pieces.resize(place + 1);
      vocabulary_.types.resize(place + 1, TokenType::kUnused);
    }
    return place;
  }

  void read_pieces() {
    PV_CHECK(model_->contains("vocab") && (*model_)["vocab"].is_object(), "{}: model.vocab is not an object", where_);
    const Json& vocab = (*model_)["vocab"];
    for (auto item = vocab.begin(); item != vocab.end(); ++item) {
      const std::size_t place = place_of(item.value(), "a piece of model.vocab");
      PV_CHECK(vocabulary_.pieces[place].empty(), "{}: two pieces of model.vocab have the id {}", where_, place);
      vocabulary_.pieces[place] = item.key();
      vocabulary_.types[place] = TokenType::kNormal;
    }
  }

  /// "left right" in old files, ["left", "right"] in new ones.
  void read_merges() {
    PV_CHECK(model_->contains("merges") && (*model_)["merges"].is_array(), "{}: model.merges is not a list", where_);
    for (const Json& merge : (*model_)["merges"]) {
      if (merge.is_string()) {
        vocabulary_.merges.push_back(merge.get<std::string>());
        continue;
      }
      PV_CHECK(merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string(),
               "{}: model.merges[{}] is neither \"left right\" nor [\"left\", \"right\"]",
               where_,
               vocabulary_.merges.size());
      vocabulary_.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    }
  }

  void read_added() {
    if (!json_.contains("added_tokens")) return;
    PV_CHECK(json_["added_tokens"].is_array(), "{}: added_tokens is not a list", where_);
    for (const Json& token : json_["added_tokens"]) {
      PV_CHECK(token.is_object() && token.contains("id") && token.contains("content") && token["content"].is_string(),
               "{}: an entry of added_tokens lacks \"id\" or \"content\"",
               where_);
      const auto content = token["content"].get<std::string>();
      const std::size_t place = place_of(token["id"], "added token \"" + content + "\"");
      vocabulary_.pieces[place] = content;
      const bool special = token.contains("special") && token["special"] == true;
      vocabulary_.types[place] = special ? TokenType::kControl : TokenType::kUserDefined;
    }
  }

  void fill_holes() {
    for (std::size_t i = 0; i < vocabulary_.pieces.size(); ++i) {
      if (vocabulary_.pieces[i].empty()) vocabulary_.pieces[i] = fmt::format("[PAD{}]", i);
    }
  }

  /// What decides about words: the regular expressions of the pre-tokenizer, told apart by what only one of them has.
  std::string split_rule_name() const {
    const std::string text = json_.contains("pre_tokenizer") ? json_["pre_tokenizer"].dump() : "";
    const auto has = [&](std::string_view part) { return text.find(part) != std::string::npos; };
    if (has("\"Split\"") && has("\\\\p{N}{1,3}")) return "llama-bpe";
    if (has("\"Split\"") && has("|\\\\p{N}|")) return "qwen2";
    if (has("\"Digits\"") && has("\"ByteLevel\"")) return "smollm";
    fail("{}: the pre-tokenizer {} is not known; known are those of Llama 3, Qwen2 and SmolLM",
         where_,
         text.empty() ? "null" : text.substr(0, 200));
  }

  /// Sentencepiece merges the pair with the best score; the order of merges is the order of scores. Types as in the original file.
  void become_sentencepiece() {
    std::unordered_map<std::string, float> scores;
    for (const std::string& merge : vocabulary_.merges) {
      std::string joined = merge;
      joined.erase(joined.find(' '), 1);
      scores.emplace(std::move(joined), -static_cast<float>(scores.size()) - 1.0F);
    }
    for (std::size_t i = 0; i < vocabulary_.pieces.size(); ++i) {
      const std::string& piece = vocabulary_.pieces[i];
      const auto found = scores.find(piece);
      vocabulary_.scores.push_back(found == scores.end() ? -static_cast<float>(scores.size()) - 2.0F : found->second);
      const bool byte = piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>';
      if (byte && vocabulary_.types[i] == TokenType::kNormal) vocabulary_.types[i] = TokenType::kByte;
    }
    vocabulary_.merges.clear();
    const std::string unknown = model_->contains("unk_token") && (*model_)["unk_token"].is_string()
                                    ? (*model_)["unk_token"].get<std::string>()
                                    : "<unk>";
    const auto place = std::find(vocabulary_.pieces.begin(), vocabulary_.pieces.end(), unknown);
    if (place == vocabulary_.pieces.end()) return;
    vocabulary_.unk_id = static_cast<std::int32_t>(place - vocabulary_.pieces.begin());
    vocabulary_.types[static_cast<std::size_t>(vocabulary_.unk_id)] = TokenType::kUnknown;
  }

  const Json& json_;
  const Json* model_ = nullptr;
  std::string where_;
  Vocabulary vocabulary_;
};

std::int32_t id_of(const Vocabulary& vocabulary, const std::string& piece) {
  const auto found = std::find(vocabulary.pieces.begin(), vocabulary.pieces.end(), piece);
  return found == vocabulary.pieces.end() ? -1 : static_cast<std::int32_t>(found - vocabulary.pieces.begin());
}

/// Tokens of tokenizer_config.json are strings or objects with "content".
std::int32_t named_token(const Json& settings, const char* key, const Vocabulary& vocabulary) {
  if (!settings.contains(key)) return -1;
  const Json& token = settings[key];
  if (token.is_string()) return id_of(vocabulary, token.get<std::string>());
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return id_of(vocabulary, token["content"].get<std::string>());
  }
  return -1;
}

/// Appends GGUF's spelling of numbers, strings and lists.
class GgufText {
 public:
  template <typename T>
  void number(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes += value;
  }
  void key(std::string_view name, std::uint32_t type) {
    text(name);
    number(type);
    ++keys;
  }
  void list(std::string_view name, std::uint32_t element, std::size_t size) {
    key(name, kArray);
    number(element);
    number<std::uint64_t>(size);
  }

  static constexpr std::uint32_t kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;
  std::string bytes;
  std::uint64_t keys = 0;
};

}  // namespace

Vocabulary read_tokenizer_json(std::string_view text, std::string_view settings, const std::string& where) {
  const Json json = parse_json(text, where);
  Vocabulary vocabulary = TokenizerJson(json, where).read();
  if (settings.empty()) return vocabulary;
  const Json config = parse_json(settings, where + " (tokenizer_config.json)");
  if (!config.is_object()) return vocabulary;
  vocabulary.bos_id = named_token(config, "bos_token", vocabulary);
  vocabulary.eos_id = named_token(config, "eos_token", vocabulary);
  vocabulary.pad_id = named_token(config, "pad_token", vocabulary);
  if (vocabulary.unk_id < 0) vocabulary.unk_id = named_token(config, "unk_token", vocabulary);
  if (config.contains("add_bos_token") && config["add_bos_token"].is_boolean()) {
    vocabulary.add_bos = config["add_bos_token"].get<bool>();
  }
  return vocabulary;
}

std::string gguf_vocabulary_bytes(const Vocabulary& vocabulary) {
  GgufText out;
  out.key("general.architecture", GgufText::kString);
  out.text("vocabulary");
  out.key("tokenizer.ggml.model", GgufText::kString);
  out.text(vocabulary.model);
  out.key("tokenizer.ggml.pre", GgufText::kString);
  out.text(vocabulary.pre);
  out.list("tokenizer.ggml.tokens", GgufText::kString, vocabulary.pieces.size());
  for (const std::string& piece : vocabulary.pieces) out.text(piece);
  out.list("tokenizer.ggml.token_type", GgufText::kInt32, vocabulary.types.size());
  for (const TokenType type : vocabulary.types) out.number(static_cast<std::int32_t>(type));
  if (!vocabulary.scores.empty()) {
    out.list("tokenizer.ggml.scores", GgufText::kFloat32, vocabulary.scores.size());
    for (const float score : vocabulary.scores) out.number(score);
  }
  if (!vocabulary.merges.empty()) {
    out.list("tokenizer.ggml.merges", GgufText::kString, vocabulary.merges.size());
    for (const std::string& merge : vocabulary.merges) out.text(merge);
  }
  for (const auto& [name, id] : {std::pair{"bos", vocabulary.bos_id}, std::pair{"eos", vocabulary.eos_id},
                                 std::pair{"unknown", vocabulary.unk_id}, std::pair{"padding", vocabulary.pad_id}}) {
    if (id < 0) continue;
    out.key(fmt::format("tokenizer.ggml.{}_token_id", name), GgufText::kUint32);
    out.number(static_cast<std::uint32_t>(id));
  }
  for (const auto& [name, flag] : {std::pair{"add_bos_token", vocabulary.add_bos},
                                   std::pair{"add_space_prefix", vocabulary.add_space_prefix},
                                   std::pair{"remove_extra_whitespaces", vocabulary.remove_extra_whitespaces}}) {
    out.key(fmt::format("tokenizer.ggml.{}", name), GgufText::kBool);
    out.number(static_cast<std::uint8_t>(flag ? 1 : 0));
  }
  GgufText head;
  head.bytes = "GGUF";
  head.number<std::uint32_t>(3);
  head.number<std::uint64_t>(0);  // tensors
  head.number<std::uint64_t>(out.keys);
  std::string bytes = head.bytes + out.bytes;
  bytes.append((32 - bytes.size() % 32) % 32, '\0');
  return bytes;
}

}  // namespace pocketvlm
