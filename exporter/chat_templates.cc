#include "exporter/chat_templates.h"

#include <map>

namespace pocketvlm {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '\'' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + "'";
}

/// One turn `m`, and what an answer begins with.
struct Form {
  std::string begin, turn, answer;
};

const std::map<std::string, Form>& forms() {
  static const std::map<std::string, Form> kForms = {
      {"chatml", {"", "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}", "<|im_start|>assistant\\n"}},
      {"llama3",
       {"{{ bos_token }}",
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + (m['content'] | trim) + '<|eot_id|>' }}",
        "<|start_header_id|>assistant<|end_header_id|>\\n\\n"}},
      {"minicpm",
       {"",
        "{% if m['role'] == 'system' %}{{ m['content'] }}"
        "{% elif m['role'] == 'user' %}{{ '<\xe7\x94\xa8\xe6\x88\xb7>' + m['content'] }}"
        "{% else %}{{ '<AI>' + m['content'] + eos_token }}{% endif %}",
        "<AI>"}},
      {"vicuna_v1",
       {"",
        "{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
        "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}",
        "ASSISTANT:"}}};
  return kForms;
}

}  // namespace

std::string chat_template_jinja(const PromptConfig& prompt) {
  const auto found = forms().find(prompt.chat_template);
  if (found == forms().end()) return "";
  const Form& form = found->second;
  std::string out = form.begin;
  if (!prompt.default_system.empty()) {
    out += "{% if messages[0]['role'] != 'system' %}{% set messages = [{'role': 'system', 'content': " + quoted(prompt.default_system) +
           "}] + messages %}{% endif %}";
  }
  return out + "{% for m in messages %}" + form.turn + "{% endfor %}{% if add_generation_prompt %}{{ '" + form.answer + "' }}{% endif %}";
}

}  // namespace pocketvlm
