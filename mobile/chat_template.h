#pragma once

#include <string>

namespace pocketvlm {

/// The system turn that a ChatML template (Jinja, `tokenizer.chat_template` of a GGUF file) writes when a chat has none: the first one that
/// stands in it in full, such as "You are a helpful assistant."; empty when there is none.
std::string default_system_of(const std::string& chat_template);

}  // namespace pocketvlm
