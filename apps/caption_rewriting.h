#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/caption_reply.h"
#include "base/json.h"

namespace pocketvlm {

/// What a model said to one prompt.
struct ModelReply {
  std::string text;
  std::string problem;  // why there is no usable text ("not finished", "too long for the model"); empty: there is
};

struct CaptionRewriting {
  std::string data;             // .json or .jsonl of conversations
  std::string out;              // .jsonl
  std::string prompt_template = kCaptionTemplate;
  std::string model;            // stands for the model in the keys of rows
  bool keep_original = false;
  bool resume = false;
  std::int64_t group = 8;       // prompts that are asked together
};

/// Answers in the order of the prompts; an Error ends the rewriting, which can be resumed.
using PromptAnswerer = std::function<std::vector<ModelReply>(const std::vector<std::string>& prompts)>;

/// Turns captions into questions and answers. A caption is a record with pictures and one user and one assistant turn; the model is
/// told the caption alone. OUT gets one line a rewritten record, {"id", "image" (relative to OUT), "conversations", "task", "key"},
/// in the order of the data, appended group by group; what failed goes to OUT.failures.jsonl, which is also what a resumed call knows
/// of failures. With keep_original, records that fail and those that are no captions are written as they were. Returns the report,
/// which is also written to OUT.report.json: {"samples", "captions", "rewritten", "pairs", "failed", "kept_original", "reasons",
/// "listed": [{"id", "place", "reason", "reply"}]}.
///
/// A row's key is a hash of record, caption, template and model: with `resume` rows that have it are kept, whatever else changed.
/// A group of which a kill left a part is asked again as a whole, so that the file is the same as without the kill.
Json rewrite_captions(const CaptionRewriting& wanted, const PromptAnswerer& answer);

}  // namespace pocketvlm
