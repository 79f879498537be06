#include "apps/mobile_openai.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "apps/mobile_output.h"
#include "base/config.h"
#include "base/error.h"
#include "data/preprocess/token_text.h"
#include "data/preprocess/utf8.h"

namespace pocketvlm {
namespace {

constexpr std::string_view kImageMark = "<image>";
constexpr double kLeastLogProb = -9999.0;  // OpenAI's word for "not at all likely"; JSON has no infinity

struct ImageUrl {
  std::string url;
  std::optional<std::string> detail;  // a hint that slicing makes superfluous
  void visit_fields(auto&& field) {
    field("url", url, "data:image/...;base64,...", required());
    field("detail", detail, "auto, low or high");
  }
};

struct ContentPart {
  std::string type;
  std::optional<std::string> text;
  std::optional<ImageUrl> image_url;
  void visit_fields(auto&& field) {
    field("type", type, "text or image_url", required(one_of({"text", "image_url"})));
    field("text", text, "of a text part");
    field("image_url", image_url, "of an image_url part");
  }
};

struct Message {
  std::string role;
  Json content;
  std::optional<std::string> name;  // of the speaker; templates have no place for it
  void visit_fields(auto&& field) {
    field(
        "role", role, "who speaks", required(one_of({"system", "developer", "user", "assistant"})));
    field("content", content, "text, or a list of parts", required());
    field("name", name, "of the speaker");
  }
};

struct StreamOptions {
  std::optional<bool> include_usage;
  void visit_fields(auto&& field) {
    field("include_usage", include_usage, "a last chunk with token counts");
  }
};

// The fields of the interface as they come; null counts as absent.
struct RequestFields {
  std::optional<std::string> model;
  std::vector<Message> messages;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::int64_t> top_k, seed, max_tokens, max_completion_tokens, n, top_logprobs;
  std::optional<bool> stream, logprobs, store;
  std::optional<StreamOptions> stream_options;
  std::optional<double> frequency_penalty, presence_penalty;
  std::optional<std::string> user;
  Json stop, metadata;

  void visit_fields(auto&& field) {
    field("messages", messages, "the conversation", required());
    field("model", model, "as /v1/models names it");
    field("stream", stream, "answer as server-sent events");
    field("stream_options", stream_options, "of the stream");
    field("temperature", temperature, "0: greedy", in_range(0, 100));
    field("top_p", top_p, "nucleus", in_range(0, 1));
    field("top_k", top_k, "0: off", at_least(0));
    field("min_p", min_p, "share of the largest probability", in_range(0, 1));
    field("repetition_penalty", repetition_penalty, "1: off", in_range(0.01, 100));
    field("seed", seed, "of the random choices");
    field("max_tokens", max_tokens, "length of the answer at most", in_range(1, 1 << 20));
    field("max_completion_tokens", max_completion_tokens, "the same", in_range(1, 1 << 20));
    field("stop", stop, "a text or up to 4 that end the answer");
    field("n", n, "answers; only 1", in_range(1, 1));
    field("logprobs", logprobs, "log-probabilities of the answer's tokens; not of a stream");
    field("top_logprobs", top_logprobs, "and of so many of the likeliest at each place", in_range(0, 20));
    field("frequency_penalty", frequency_penalty, "only 0: use repetition_penalty", in_range(0, 0));
    field("presence_penalty", presence_penalty, "only 0: use repetition_penalty", in_range(0, 0));
    field("user", user, "has no effect on answers");
    field("store", store, "has no effect: nothing is stored");
    field("metadata", metadata, "has no effect on answers");
  }
};

std::vector<std::string> stop_texts(const Json& stop) {
  std::vector<std::string> texts;
  if (stop.is_null()) return texts;
  const Json list = stop.is_array() ? stop : Json::array({stop});
  PV_CHECK(list.size() <= 4, "request.stop: {} texts; give at most 4", list.size());
  for (const Json& text : list) {
    PV_CHECK(text.is_string() && !text.get<std::string>().empty(),
             "request.stop: must be a text that is not empty, or a list of such");
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

MobileSampling sampling_of(const RequestFields& fields, MobileSampling sampling) {
  PV_CHECK(!fields.max_tokens || !fields.max_completion_tokens,
           "request: max_tokens and max_completion_tokens mean the same; give one of them");
  sampling.temperature = fields.temperature.value_or(sampling.temperature);
  sampling.top_p = fields.top_p.value_or(sampling.top_p);
  sampling.top_k = fields.top_k.value_or(sampling.top_k);
  sampling.min_p = fields.min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = fields.repetition_penalty.value_or(sampling.repetition_penalty);
  sampling.max_new_tokens =
      fields.max_tokens.value_or(fields.max_completion_tokens.value_or(sampling.max_new_tokens));
  if (fields.seed) sampling.seed = static_cast<std::uint64_t>(*fields.seed);
  return sampling;
}

bool has_pictures(const CompletionRequest& request) {
  const auto is_picture = [](const Json& part) {
    return part.is_object() && part.value("type", Json()) == "image_url";
  };
  return std::any_of(request.contents.begin(), request.contents.end(), [&](const Json& content) {
    return content.is_array() && std::any_of(content.begin(), content.end(), is_picture);
  });
}

// The parts of one message as one text, with a mark where each picture stands.
class MessageReader {
 public:
  MessageReader(Chat& chat, const DecodeOptions& decode, bool pictures)
      : chat_(chat), decode_(decode), pictures_(pictures) {}

  void read(const std::string& role, const Json& content, const std::string& where) {
    std::string text;
    if (content.is_string()) {
      text = plain(role, content.get<std::string>(), where);
    } else {
      PV_CHECK(content.is_array() && !content.empty(),
               "{}.content: must be a text or a list of parts",
               where);
      for (std::size_t i = 0; i < content.size(); ++i) {
        const std::string place = fmt::format("{}.content[{}]", where, i);
        text += (i > 0 ? "\n" : "") + part(role, content[i], place);
      }
    }
    chat_.turns.push_back({role, std::move(text)});
  }

 private:
  // In a chat with pictures the mark would stand for one of them.
  std::string plain(const std::string& role, const std::string& text, const std::string& where) {
    PV_CHECK(!pictures_ || role == "assistant" || text.find(kImageMark) == text.npos,
             "{}: a text beside pictures must not contain \"{}\"; write it otherwise",
             where,
             kImageMark);
    return text;
  }

  std::string part(const std::string& role, const Json& json, const std::string& where) {
    const auto part = read_config<ContentPart>(json, where);
    if (part.type == "text") {
      PV_CHECK(part.text && !part.image_url, "{}: a text part has a text and no image_url", where);
      return plain(role, *part.text, where);
    }
    PV_CHECK(
        part.image_url && !part.text, "{}: an image_url part has an image_url and no text", where);
    PV_CHECK(role == "user", "{}: pictures belong into messages of the user", where);
    const std::string bytes = decode_data_url(part.image_url->url, where + ".image_url.url");
    chat_.images.push_back(
        decode_image(std::as_bytes(std::span(bytes)), where + ".image_url.url", decode_));
    return std::string(kImageMark);
  }

  Chat& chat_;
  const DecodeOptions& decode_;
  const bool pictures_;
};

// Value of each base64 character, 64 for others.
std::array<std::uint8_t, 256> base64_values() {
  std::array<std::uint8_t, 256> values;
  values.fill(64);
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kAlphabet.size(); ++i)
    values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  return values;
}

std::string decode_base64(std::string_view text, const std::string& where) {
  static const std::array<std::uint8_t, 256> kValues = base64_values();
  std::size_t padding = 0;
  while (padding < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++padding;
  }
  PV_CHECK((text.size() + padding) % 4 == 0 && text.size() % 4 != 1,
           "{}: the base64 data ends too early; send whole groups of 4 characters",
           where);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 3);
  std::uint32_t group = 0;
  int bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::uint8_t value = kValues[static_cast<unsigned char>(text[i])];
    PV_CHECK(value < 64, "{}: character {} of the data is not base64", where, i);
    group = (group << 6 | value) & 0xFFFFFF;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push_back(static_cast<char>(group >> bits & 0xFF));
  }
  return bytes;
}

Json usage_json(const ChatTimings& timings) {
  return {{"prompt_tokens", timings.prompt_tokens},
          {"completion_tokens", timings.generated_tokens},
          {"total_tokens", timings.prompt_tokens + timings.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", timings.cached_tokens}}}};
}

}  // namespace

CompletionRequest read_completion_request(const std::string& body, const MobileSampling& defaults) {
  const auto fields = read_config<RequestFields>(parse_json(body, "request"), "request");
  const bool log_probs = fields.logprobs.value_or(false);
  PV_CHECK(!fields.top_logprobs || log_probs, "request.top_logprobs: has no effect without \"logprobs\": true");
  PV_CHECK(!log_probs || !fields.stream.value_or(false),
           "request.logprobs: not offered for streams; leave out one of \"logprobs\" and \"stream\"");
  CompletionRequest request;
  request.model = fields.model.value_or("");
  request.sampling = sampling_of(fields, defaults);
  if (log_probs) request.sampling.top_logprobs = fields.top_logprobs.value_or(0);
  request.seed_given = fields.seed.has_value();
  request.stop = stop_texts(fields.stop);
  request.stream = fields.stream.value_or(false);
  PV_CHECK(request.stream || !fields.stream_options,
           "request.stream_options: has no effect without \"stream\": true");
  if (fields.stream_options)
    request.include_usage = fields.stream_options->include_usage.value_or(false);
  for (const Message& message : fields.messages) {
    request.roles.push_back(message.role == "developer" ? "system" : message.role);
    request.contents.push_back(message.content);
  }
  PV_CHECK(!request.roles.empty() && request.roles.back() == "user",
           "request.messages: the last message must be from the user");
  return request;
}

Chat chat_of(const CompletionRequest& request, const ImageConfig& config) {
  const DecodeOptions decode = decode_options(config);
  Chat chat;
  MessageReader reader(chat, decode, has_pictures(request));
  for (std::size_t i = 0; i < request.roles.size(); ++i)
    reader.read(request.roles[i], request.contents[i], fmt::format("request.messages[{}]", i));
  return chat;
}

std::string decode_data_url(const std::string& url, const std::string& where) {
  constexpr std::string_view kBase64 = ";base64";
  const std::size_t comma = url.find(',');
  const std::string_view head = std::string_view(url).substr(0, comma);
  PV_CHECK(url.starts_with("data:") && comma != url.npos && head.ends_with(kBase64),
           "{}: must be a data:image/...;base64,... URL; this server fetches no other addresses",
           where);
  return decode_base64(std::string_view(url).substr(comma + 1), where);
}

std::string StopTexts::add(std::string_view piece) {
  if (found_) return "";
  held_ += piece;
  std::size_t first = held_.npos;
  for (const std::string& text : texts_) first = std::min(first, held_.find(text));
  if (first != held_.npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, "");
  }
  // The longest end that may become a stop text.
  std::size_t keep = 0;
  for (const std::string& text : texts_) {
    for (std::size_t length = std::min(text.size() - 1, held_.size()); length > keep; --length) {
      if (held_.ends_with(std::string_view(text).substr(0, length))) keep = length;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopTexts::finish() { return std::exchange(held_, ""); }

Json error_json(const std::string& message, const std::string& type) {
  return {{"error", {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}}}};
}

Json completion_json(const CompletionFacts& facts,
                     const std::string& text,
                     const std::string& finish_reason,
                     const ChatTimings& timings,
                     const Json& logprobs) {
  const Json choice = {{"index", 0},
                       {"message", {{"role", "assistant"}, {"content", text}}},
                       {"logprobs", logprobs},
                       {"finish_reason", finish_reason}};
  return {{"id", facts.id},
          {"object", "chat.completion"},
          {"created", facts.created},
          {"model", facts.model},
          {"choices", Json::array({choice})},
          {"usage", usage_json(timings)},
          {"timings", timings_json(timings)}};
}

Json logprobs_json(const std::vector<TokenLogProbs>& log_probs, const std::string& text, const Tokenizer& tokenizer) {
  Json content = Json::array();
  std::size_t begin = 0;  // byte of the answer where the token stands
  TokenText running(tokenizer);
  for (const TokenLogProbs& place : log_probs) {
    const auto entry = [&](const TokenLogProbs::Entry& token) {
      const std::string bytes = running.of(token.id);
      return Json{{"token", replace_invalid_utf8(bytes)},
                  {"logprob", std::max(token.log_prob, kLeastLogProb)},
                  {"bytes", std::vector<std::uint8_t>(bytes.begin(), bytes.end())}};
    };
    const std::string bytes = running.of(place.chosen.id);
    if (begin >= text.size() && !bytes.empty()) break;
    Json token = entry(place.chosen);
    token["top_logprobs"] = Json::array();
    for (const TokenLogProbs::Entry& other : place.top) token["top_logprobs"].push_back(entry(other));
    begin += bytes.size();
    running.add(place.chosen.id);
    content.push_back(std::move(token));
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json chunk_json(const CompletionFacts& facts, const Json& delta, const Json& finish_reason) {
  const Json choice = {{"index", 0}, {"delta", delta}, {"finish_reason", finish_reason}};
  return {{"id", facts.id},
          {"object", "chat.completion.chunk"},
          {"created", facts.created},
          {"model", facts.model},
          {"choices", Json::array({choice})}};
}

Json usage_chunk_json(const CompletionFacts& facts, const ChatTimings& timings) {
  Json chunk = chunk_json(facts, Json::object(), nullptr);
  chunk["choices"] = Json::array();
  chunk["usage"] = usage_json(timings);
  chunk["timings"] = timings_json(timings);
  return chunk;
}

}  // namespace pocketvlm
