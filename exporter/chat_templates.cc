#include "exporter/chat_templates.h"

namespace pocketvlm {

std::string chat_template_jinja(const std::string& chat_template) {
  if (chat_template == "chatml") {
    return "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  }
  if (chat_template == "llama3") {
    return "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + "
           "(m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";
  }
  if (chat_template == "minicpm") {
    return "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<\xe7\x94\xa8\xe6\x88\xb7>' + m['content'] + '<AI>' }}"
           "{% else %}{{ m['content'] }}{% endif %}{% endfor %}";
  }
  if (chat_template == "vicuna_v1") {
    return "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
           "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
           "{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
           "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";
  }
  return "";
}

}  // namespace pocketvlm
