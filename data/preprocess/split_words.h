#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// The rules by which byte-level vocabularies cut text before merging; nothing merges across a cut.
enum class SplitRule {
  kLlama3,  // "llama-bpe": numbers in groups of up to three
  kQwen2,   // "qwen2": the same, but each number character alone
  kSmollm,  // "smollm": each number character alone, then the rule of GPT-2
};

/// The rule by the name that GGUF gives it (tokenizer.ggml.pre). Throws Error for others.
SplitRule split_rule(const std::string& name, const std::string& where);

/// Cuts valid UTF-8 into words that together are the text. The published rules are regular
/// expressions (tokenizer.json of the models); this is the same written out by hand.
std::vector<std::string_view> split_words(std::string_view text, SplitRule rule);

}  // namespace pocketvlm
