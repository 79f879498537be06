#include "data/preprocess/tiktoken_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "data/preprocess/byte_level_bpe.h"
#include "data/preprocess/tokenizer_config.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kLlama3Ranks = 128000, kQwen2Ranks = 151643;
constexpr int kNumLlama3Specials = 256;

std::optional<std::string> from_base64(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int value = i < text.size() - padding ? digit(text[i]) : 0;
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (i % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(bits >> shift & 0xFF));
    bits = 0;
  }
  bytes.resize(bytes.size() - padding);
  return bytes;
}

struct Rank {
  std::string bytes;
  std::int64_t rank;
};

std::optional<Rank> parse_line(std::string_view line) {
  const std::size_t gap = line.find(' ');
  if (gap == std::string_view::npos) return std::nullopt;
  auto bytes = from_base64(line.substr(0, gap));
  std::int64_t rank = -1;
  const auto end = std::from_chars(line.data() + gap + 1, line.data() + line.size(), rank);
  if (!bytes || end.ec != std::errc() || end.ptr != line.data() + line.size() || rank < 0) return std::nullopt;
  return Rank{std::move(*bytes), rank};
}

/// Takes one line off the text, without its end.
std::string_view next_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// The bytes of each id.
std::vector<std::string> read_ranks(std::string_view text, const std::string& where) {
  std::vector<std::string> pieces;
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = next_line(text);
    if (line.empty()) continue;
    auto item = parse_line(line);
    PV_CHECK(item.has_value() && item->rank == static_cast<std::int64_t>(pieces.size()),
             "{}:{}: expected a piece in base64, a space and the rank {}; fetch the file again",
             where,
             number,
             pieces.size());
    pieces.push_back(std::move(item->bytes));
  }
  return pieces;
}

std::string spelled(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += byte_spelling()[static_cast<unsigned char>(c)];
  return text;
}

/// Every way to make a piece of two others, in the order of the ranks of what is made.
std::vector<std::string> merges_of(const std::vector<std::string>& pieces) {
  std::unordered_map<std::string_view, std::size_t> ranks;
  for (std::size_t i = 0; i < pieces.size(); ++i) ranks.emplace(pieces[i], i);
  std::vector<std::string> merges;
  for (const std::string& piece : pieces) {
    std::vector<std::pair<std::size_t, std::size_t>> halves;
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ranks.find(std::string_view(piece).substr(0, cut));
      const auto right = ranks.find(std::string_view(piece).substr(cut));
      if (left != ranks.end() && right != ranks.end()) halves.emplace_back(left->second, right->second);
    }
    std::sort(halves.begin(), halves.end());
    for (const auto& [left, right] : halves) merges.push_back(spelled(pieces[left]) + " " + spelled(pieces[right]));
  }
  return merges;
}

std::string split_rule_of(std::size_t ranks, const Json& config, const std::string& where) {
  const std::string made_for = config.is_object() && config.contains("tokenizer_class") && config["tokenizer_class"].is_string()
                                   ? config["tokenizer_class"].get<std::string>()
                                   : "";
  if (ranks == kLlama3Ranks) return "llama-bpe";
  if (ranks == kQwen2Ranks || made_for.starts_with("Qwen") || made_for.starts_with("QWen")) return "qwen2";
  fail("{}: {} ranks belong to no vocabulary that is known (Llama 3 has {}, Qwen2 {}); put a tokenizer_config.json with "
       "\"tokenizer_class\": \"Qwen2Tokenizer\" beside it, or use its tokenizer.json",
       where,
       ranks,
       kLlama3Ranks,
       kQwen2Ranks);
}

/// The tokens that the published models add after the ranks.
std::vector<std::string> published_specials(const std::string& rule) {
  if (rule == "qwen2") return {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<std::string> names = {"<|begin_of_text|>", "<|end_of_text|>"};
  for (int i = 0; i < 4; ++i) names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  names.insert(names.end(), {"<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"});
  for (int i = 5; static_cast<int>(names.size()) < kNumLlama3Specials; ++i) {
    names.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  }
  return names;
}

std::int32_t find(const Vocabulary& vocabulary, const char* piece) {
  const auto found = std::find(vocabulary.pieces.begin(), vocabulary.pieces.end(), piece);
  return found == vocabulary.pieces.end() ? -1 : static_cast<std::int32_t>(found - vocabulary.pieces.begin());
}

}  // namespace

bool is_tiktoken_file(std::string_view text) { return parse_line(next_line(text)).has_value(); }

Vocabulary read_tiktoken_file(std::string_view text, std::string_view settings, const std::string& where) {
  const std::vector<std::string> ranks = read_ranks(text, where);
  const Json config = settings.empty() ? Json() : parse_tokenizer_config(settings, where + " (tokenizer_config.json)");
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = split_rule_of(ranks.size(), config, where);
  vocabulary.nfc = vocabulary.pre == "qwen2";
  vocabulary.whole_words = true;
  vocabulary.add_space_prefix = false;
  vocabulary.add_bos = vocabulary.pre == "llama-bpe";
  for (const std::string& bytes : ranks) vocabulary.pieces.push_back(spelled(bytes));
  vocabulary.types.assign(ranks.size(), TokenType::kNormal);
  vocabulary.merges = merges_of(ranks);
  if (!config.is_object() || !config.contains("added_tokens_decoder")) {
    for (const std::string& name : published_specials(vocabulary.pre)) {
      vocabulary.pieces.push_back(name);
      vocabulary.types.push_back(TokenType::kControl);
    }
  }
  const bool llama = vocabulary.pre == "llama-bpe";
  vocabulary.bos_id = llama ? find(vocabulary, "<|begin_of_text|>") : -1;
  vocabulary.eos_id = find(vocabulary, llama ? "<|end_of_text|>" : "<|im_end|>");
  apply_tokenizer_config(settings, where, vocabulary);
  return vocabulary;
}

}  // namespace pocketvlm
