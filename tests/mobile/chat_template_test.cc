#include "mobile/chat_template.h"

#include <gtest/gtest.h>

#include "mobile/gguf.h"
#include "mobile/model.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

// As SmolLM2's and Qwen2's: written when the first message is not the system's.
const std::string kWithDefault =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}";

TEST(ChatTemplate, WritesADefaultSystemTurnInFull) {
  EXPECT_EQ(default_system_of(kWithDefault), "You are a helpful assistant.");
  // Line breaks inside of Jinja's quotes, and a turn put together from a message before the one in full.
  EXPECT_EQ(default_system_of("{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% else %}"
                              "{{- '<|im_start|>system\\nYou are Model 3, made by people.<|im_end|>\\n' }}"),
            "You are Model 3, made by people.");
}

TEST(ChatTemplate, WithoutOneThereIsNone) {
  EXPECT_EQ(default_system_of(""), "");
  EXPECT_EQ(default_system_of("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"), "");
  EXPECT_EQ(default_system_of("{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"), "");
  EXPECT_EQ(default_system_of("<|im_start|>system\n<|im_end|>"), "");
  EXPECT_EQ(default_system_of("<|im_start|>system\nno end"), "");
  EXPECT_EQ(default_system_of("<|im_start|>systematic"), "");
}

PromptConfig prompt_of(const std::string& chat_template) {
  const std::string path = temporary_folder() + "/language.gguf";
  GgufWriter writer;
  writer.set_string("general.architecture", "llama");
  writer.set_string("tokenizer.chat_template", chat_template);
  writer.write(path);
  return read_prompt_config(GgufFile(path), nullptr);
}

TEST(ChatTemplate, FilesOfOthersKeepTheirs) {
  const PromptConfig prompt = prompt_of(kWithDefault);
  EXPECT_EQ(prompt.chat_template, "chatml");
  EXPECT_EQ(prompt.default_system, "You are a helpful assistant.");
  EXPECT_EQ(prompt_of("<|start_header_id|>system").default_system, "");
}

}  // namespace
}  // namespace pocketvlm
