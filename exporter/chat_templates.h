#pragma once

#include <string>

namespace pocketvlm {

/// The chat template as Jinja text for stock llama.cpp, which recognises these forms; empty for templates it has no form of
/// (`plain`). The phone runtime renders from PromptConfig and does not read it.
std::string chat_template_jinja(const std::string& chat_template);

}  // namespace pocketvlm
