#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "mobile/session.h"

namespace pocketvlm {

/// One request to /v1/chat/completions, understood.
struct CompletionRequest {
  std::string model;               // empty: not named
  std::vector<std::string> roles;  // of each message
  std::vector<Json> contents;      // text, or a list of text and image_url parts
  MobileSampling sampling;
  bool seed_given = false;        // sampling.seed is the client's
  std::vector<std::string> stop;  // texts that end the answer, not part of it
  bool stream = false;
  bool include_usage = false;  // a last chunk of the stream with token counts
};

/// Reads a request. What it leaves open comes from `defaults`. Throws Error naming the field;
/// fields that would change the answer in a way this server cannot (tools, several answers,
/// logprobs of a stream) are refused, never passed over.
CompletionRequest read_completion_request(const std::string& body, const MobileSampling& defaults);

/// Its messages as a chat, pictures decoded from their data: URLs. Throws Error naming the message
/// and part at fault.
Chat chat_of(const CompletionRequest& request, const ImageConfig& config);

/// The bytes of a "data:<type>;base64,<data>" URL. Throws Error, beginning with `where`, for other
/// URLs and for what is no base64.
std::string decode_data_url(const std::string& url, const std::string& where);

/// Cuts an answer before the first of some texts, piece by piece.
class StopTexts {
 public:
  explicit StopTexts(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  /// Adds a piece; returns what is certain not to belong to a stop text.
  std::string add(std::string_view piece);
  /// What was held back, once no more comes.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> texts_;
  std::string held_;
  bool found_ = false;
};

/// {"error": {"message", "type", "param", "code"}}
Json error_json(const std::string& message, const std::string& type);

/// Facts that the forms below share.
struct CompletionFacts {
  std::string id;
  std::int64_t created = 0;  // seconds since 1970
  std::string model;
};

/// chat.completion: the whole answer. `logprobs`: of logprobs_json, or null.
Json completion_json(const CompletionFacts& facts,
                     const std::string& text,
                     const std::string& finish_reason,
                     const ChatTimings& timings,
                     const Json& logprobs);

/// {"content": [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}, ...]}, ...], "refusal": null}: a
/// token of the answer each, as far as it reaches into `text`, which a stop text may have cut. The bytes of all tokens are
/// those of the answer; a token that is no whole UTF-8 has U+FFFD in "token". The token that ends an answer is not listed.
Json logprobs_json(const std::vector<TokenLogProbs>& log_probs, const std::string& text, const Tokenizer& tokenizer);

/// chat.completion.chunk: a piece of it; `delta` holds role or content.
Json chunk_json(const CompletionFacts& facts, const Json& delta, const Json& finish_reason);

/// The chunk that carries the counts of tokens.
Json usage_chunk_json(const CompletionFacts& facts, const ChatTimings& timings);

}  // namespace pocketvlm
