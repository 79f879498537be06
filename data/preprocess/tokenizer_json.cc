#include "data/preprocess/tokenizer_json.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "data/preprocess/gguf_vocabulary.h"
#include "data/preprocess/sentencepiece_bpe.h"
#include "data/preprocess/tokenizer_config.h"

namespace pocketvlm {
namespace {

/// The published split rules: the regular expressions in tokenizer.json of the models.
constexpr const char* kLlama3Rule =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Rule =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// A text of an object; empty when it is not there.
std::string word(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

bool is_type(const Json& step, const char* type) { return word(step, "type") == type; }

/// The steps of a "Sequence" (of normalisers or pre-tokenizers), the one step that is no sequence, or nothing for null.
std::vector<Json> steps_of(const Json& json, const char* key, const char* list) {
  if (!json.contains(key) || json[key].is_null()) return {};
  const Json& value = json[key];
  if (!is_type(value, "Sequence") || !value.contains(list) || !value[list].is_array()) return {value};
  return {value[list].begin(), value[list].end()};
}

/// A flag of a step, `otherwise` when it is not written.
bool flag(const Json& step, const char* key, bool otherwise) {
  return step.contains(key) && step[key].is_boolean() ? step[key].get<bool>() : otherwise;
}

std::string shown(const Json& json, const char* key) {
  return json.contains(key) ? json[key].dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 300) : "null";
}

class TokenizerJson {
 public:
  TokenizerJson(const Json& json, const std::string& where) : json_(json), where_(where) {
    PV_CHECK(json_.is_object() && json_.contains("model") && json_["model"].is_object(),
             "{}: no \"model\" object; is this a tokenizer.json of the tokenizers library?",
             where_);
    model_ = &json_["model"];
    const std::string type = model_->contains("type") ? word(*model_, "type") : "BPE";
    PV_CHECK(type == "BPE", "{}: model.type \"{}\" is not supported; only BPE is", where_, type);
  }

  Vocabulary read() {
    const bool byte_fallback = flag(*model_, "byte_fallback", false);
    vocabulary_.model = byte_fallback ? "llama" : "gpt2";
    vocabulary_.add_space_prefix = byte_fallback;
    vocabulary_.pre = byte_fallback ? space_rule() : split_rule_name();
    if (byte_fallback) {
      PV_CHECK(!flag(*model_, "ignore_merges", false), "{}: model.ignore_merges with byte_fallback is not supported", where_);
    } else {
      vocabulary_.nfc = is_nfc();
      vocabulary_.whole_words = flag(*model_, "ignore_merges", false);
    }
    vocabulary_.add_bos = byte_fallback || vocabulary_.pre == "llama-bpe";
    read_pieces();
    read_merges();
    read_added();
    if (byte_fallback) become_sentencepiece();
    return std::move(vocabulary_);
  }

 private:
  std::int64_t id_of(const Json& id, const std::string& what) const {
    PV_CHECK(id.is_number_integer(), "{}: {} has the id {}, which is no whole number", where_, what, id.dump());
    return id.get<std::int64_t>();
  }

  void read_pieces() {
    PV_CHECK(model_->contains("vocab") && (*model_)["vocab"].is_object(), "{}: model.vocab is not an object", where_);
    const Json& vocab = (*model_)["vocab"];
    for (auto item = vocab.begin(); item != vocab.end(); ++item) {
      const std::string what = "the piece \"" + item.key() + "\" of model.vocab";
      place_piece(vocabulary_, id_of(item.value(), what), item.key(), TokenType::kNormal, where_, what);
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
      const std::string what = "added token \"" + content + "\"";
      for (const char* key : {"lstrip", "rstrip", "single_word"}) {
        PV_CHECK(!flag(token, key, false), "{}: {} has \"{}\": true, which is not supported; use a vocabulary without", where_, what, key);
      }
      const TokenType type = flag(token, "special", false) ? TokenType::kControl : TokenType::kUserDefined;
      place_piece(vocabulary_, id_of(token["id"], what), content, type, where_, what);
    }
  }

  std::string split_rule_name() const {
    const std::vector<Json> steps = steps_of(json_, "pre_tokenizer", "pretokenizers");
    const bool bytes_last = steps.size() == 2 && is_type(steps[1], "ByteLevel") && !flag(steps[1], "add_prefix_space", true);
    if (bytes_last && is_type(steps[0], "Split") && !flag(steps[1], "use_regex", true) && !flag(steps[0], "invert", false) &&
        word(steps[0], "behavior") == "Isolated" && steps[0].contains("pattern")) {
      const std::string rule = word(steps[0]["pattern"], "Regex");
      if (rule == kLlama3Rule) return "llama-bpe";
      if (rule == kQwen2Rule) return "qwen2";
    }
    if (bytes_last && is_type(steps[0], "Digits") && flag(steps[0], "individual_digits", false) && flag(steps[1], "use_regex", true)) {
      return "smollm";
    }
    fail("{}: the pre-tokenizer {} is not known; known are those of Llama 3, Qwen2 and SmolLM", where_, shown(json_, "pre_tokenizer"));
  }

  /// Byte-level vocabularies leave text as it is, or put it into normal form C.
  bool is_nfc() const {
    const std::vector<Json> steps = steps_of(json_, "normalizer", "normalizers");
    for (const Json& step : steps) {
      PV_CHECK(is_type(step, "NFC"), "{}: the normalizer {} is not supported; only NFC is, or none", where_, shown(json_, "normalizer"));
    }
    return !steps.empty();
  }

  /// A vocabulary that was sentencepiece's spells spaces as U+2581 and puts one before a text: by normalizers, always, or by the
  /// pre-tokenizer Metaspace, where its scheme says.
  std::string space_rule() {
    const std::vector<Json> steps = steps_of(json_, "normalizer", "normalizers");
    const std::vector<Json> before = steps_of(json_, "pre_tokenizer", "pretokenizers");
    const bool as_sentencepiece =
        steps.size() == 2 && is_type(steps[0], "Prepend") && word(steps[0], "prepend") == kSpaceMark &&
        is_type(steps[1], "Replace") && word(steps[1], "content") == kSpaceMark && steps[1].contains("pattern") &&
        steps[1]["pattern"] == Json{{"String", " "}} && before.empty();
    if (as_sentencepiece) return "default";
    // Absent, "split" is true: pieces would not reach across words.
    const bool as_metaspace = steps.empty() && before.size() == 1 && is_type(before[0], "Metaspace") &&
                              word(before[0], "replacement") == kSpaceMark && !flag(before[0], "split", true);
    std::string scheme = as_metaspace ? word(before[0], "prepend_scheme") : "none";
    if (scheme.empty()) scheme = flag(before[0], "add_prefix_space", true) ? "always" : "never";  // files of 2023 and before
    if (scheme == "always") return std::string(kMetaspace);
    if (scheme == "first") return std::string(kMetaspaceFirst);
    if (scheme == "never") {
      vocabulary_.add_space_prefix = false;
      return "default";
    }
    fail("{}: the normalizer {} with the pre_tokenizer {} is not supported; with byte_fallback only LLaMA-2's two forms are (Prepend and "
         "Replace with U+2581, or Metaspace with \"split\": false); use the tokenizer.model of the same release",
         where_,
         shown(json_, "normalizer"),
         shown(json_, "pre_tokenizer"));
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
  apply_tokenizer_config(settings, where, vocabulary);
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
  for (const auto& [name, flag] : {std::pair{kGgufNfcKey, vocabulary.nfc}, std::pair{kGgufWholeWordsKey, vocabulary.whole_words}}) {
    out.key(name, GgufText::kBool);
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
