#include "apps/server_answers.h"

namespace pocketvlm {

PromptAnswerer server_answers(ChatClient& client, std::int64_t max_new_tokens) {
  return [&client, max_new_tokens](const std::vector<std::string>& prompts) {
    std::vector<ChatQuestion> questions;
    for (const std::string& prompt : prompts) questions.push_back({prompt, "", max_new_tokens});
    std::vector<ModelReply> replies;
    for (ChatReply& reply : client.ask(questions)) {
      replies.push_back({std::move(reply.text), reply.refused.empty() ? "" : "too long for the model"});
    }
    return replies;
  };
}

}  // namespace pocketvlm
