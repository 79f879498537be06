#pragma once

#include "apps/caption_rewriting.h"
#include "rlaif/chat_client.h"

namespace pocketvlm {

/// Prompts answered by an OpenAI-compatible server, several at once. A prompt that is too long for it is a problem of that prompt.
PromptAnswerer server_answers(ChatClient& client, std::int64_t max_new_tokens);

}  // namespace pocketvlm
