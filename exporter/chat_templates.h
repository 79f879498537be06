#pragma once

#include <string>

#include "data/preprocess/prompt.h"

namespace pocketvlm {

/// The chat template as Jinja text for stock llama.cpp, which recognises these forms; empty for templates it has no form of
/// (`plain`). A chat without a system turn gets the default one, as it does here. The phone runtime renders from PromptConfig and
/// does not read it.
std::string chat_template_jinja(const PromptConfig& prompt);

}  // namespace pocketvlm
