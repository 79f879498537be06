#include "data/preprocess/prompt.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "data/preprocess/image_patches.h"

namespace pocketvlm {
namespace {

constexpr std::string_view kImageMark = "<image>";
constexpr std::string_view kMiniCpmUser = "<\xE7\x94\xA8\xE6\x88\xB7>";
constexpr std::string_view kMiniCpmAssistant = "<AI>";

/// The token layout of one image (MiniCPM-V 2.0 / 2.5 and 2.6 code), as calls of
/// piece(name), text(text) and visual().
template <typename Writer>
void write_image_layout(const PromptConfig& prompt,
                        const SlicePlan& plan,
                        int image_index,
                        Writer&& out) {
  const auto wrapped = [&](const char* open, const char* close) {
    out.piece(open);
    out.visual();
    out.piece(close);
  };
  const auto tiles = [&](auto&& write_tile) {
    for (int row = 0; row < plan.grid->rows; ++row) {
      if (row > 0) out.text("\n");
      for (int column = 0; column < plan.grid->columns; ++column) write_tile();
    }
  };
  if (prompt.image_layout == "minicpmv-2.0") {
    wrapped("<image>", "</image>");
    if (!plan.grid) return;
    out.piece("<slice>");
    tiles([&] { wrapped("<image>", "</image>"); });
    out.piece("</slice>");
  } else if (prompt.image_layout == "minicpmv-2.6") {
    if (prompt.use_image_id) {
      out.piece("<image_id>");
      out.text(std::to_string(image_index));
      out.piece("</image_id>");
    }
    wrapped("<image>", "</image>");
    if (plan.grid) tiles([&] { wrapped("<slice>", "</slice>"); });
  } else {
    for (int slice = 0; slice < plan.num_slices(); ++slice) out.visual();
  }
}

struct LayoutText {
  const PromptConfig& prompt;
  std::string result;
  int run = 0;  // neighbouring visual tokens

  void piece(std::string_view name) { text(name); }
  void text(std::string_view part) {
    flush();
    result += part;
  }
  void visual() { run += static_cast<int>(prompt.num_queries); }
  void flush() {
    if (run > 0) result += fmt::format("{}*{}", prompt.filler, run);
    run = 0;
  }
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\n\r\v\f";
  const std::size_t first = text.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

std::size_t count_marks(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(kImageMark); at != text.npos;
       at = text.find(kImageMark, at + kImageMark.size()))
    ++count;
  return count;
}

/// Builds one EncodedChat. Text is collected until something else comes, or text that is learned
/// meets text that is not; so neighbouring texts are tokenized as one.
class ChatWriter {
 public:
  /// `whole_as_released`: a whole conversation with compat "released".
  ChatWriter(const PromptEncoder& encoder, const Chat& chat, bool whole_as_released = false)
      : encoder_(encoder), tokenizer_(encoder.tokenizer()), chat_(chat), whole_as_released_(whole_as_released) {}

  bool whole_as_released() const { return whole_as_released_; }

  void text(std::string_view part, bool target = false) {
    if (part.empty()) return;
    if (target != pending_target_) flush();
    pending_target_ = target;
    pending_ += part;
  }

  void piece(std::string_view name, bool target = false) {
    flush();
    push(tokenizer_.require(name), target);
    text_begins_ = false;
  }

  std::int32_t id_of(std::string_view piece) const { return tokenizer_.require(piece); }
  /// The id that ends a text; <|im_end|> where the vocabulary has no EOS.
  std::int32_t end_id() const {
    const std::int32_t eos = tokenizer_.vocabulary().eos_id;
    return eos >= 0 ? eos : id_of("<|im_end|>");
  }

  /// As one piece where the vocabulary has it as a special one, else as text (MiniCPM-2B's
  /// markers).
  void marker(std::string_view name) {
    const auto id = tokenizer_.find(name);
    const auto type =
        id ? tokenizer_.vocabulary().types[static_cast<std::size_t>(*id)] : TokenType::kNormal;
    if (type == TokenType::kUserDefined || type == TokenType::kControl) {
      piece(name);
    } else {
      text(name);
    }
  }

  /// What comes next is encoded apart from what was, with a dummy prefix of its own.
  void new_text() {
    flush();
    text_begins_ = true;
  }

  /// The last token so far is to predict this id, whatever follows it.
  void label_as(std::int32_t id) {
    flush();
    encoded_.replaced_labels.push_back({static_cast<std::int32_t>(encoded_.ids.size()) - 1, id});
  }

  void begin_of_text() {
    new_text();
    const Vocabulary& vocabulary = tokenizer_.vocabulary();
    if (vocabulary.bos_id >= 0 && vocabulary.add_bos) push(vocabulary.bos_id, false);
  }

  void end_of_text() {
    flush();
    push(tokenizer_.vocabulary().eos_id, true);
    text_begins_ = true;
  }

  void image() {
    const ImageConfig& config = encoder_.image();
    const SlicePlan plan = append_image(chat_.images[next_image_], config, encoded_.patches, encoded_.grids);
    PromptConfig prompt = encoder_.prompt();
    if (whole_as_released_ && !plan.grid) prompt.use_image_id = false;
    write_image_layout(prompt, plan, static_cast<int>(next_image_), *this);
    ++next_image_;
  }

  void visual() {
    flush();
    const std::int32_t filler = tokenizer_.require(encoder_.prompt().filler);
    for (std::int64_t i = 0; i < encoder_.prompt().num_queries; ++i) {
      encoded_.visual_positions.push_back(static_cast<std::int32_t>(encoded_.ids.size()));
      push(filler, false);
    }
    text_begins_ = encoder_.prompt().image_layout == "bare";
  }

  /// Content of a system or user turn: text, with images at their marks.
  void content(std::string_view part) {
    for (std::size_t mark = part.find(kImageMark); mark != part.npos && !chat_.images.empty();
         mark = part.find(kImageMark)) {
      text(part.substr(0, mark));
      image();
      part.remove_prefix(mark + kImageMark.size());
    }
    text(part);
  }

  /// The images of a chat without marks.
  void leading_images() {
    while (next_image_ < chat_.images.size()) {
      image();
      text("\n");
    }
  }

  EncodedChat finish() {
    flush();
    return std::move(encoded_);
  }

 private:
  void push(std::int32_t id, bool target) {
    encoded_.ids.push_back(id);
    encoded_.is_target.push_back(target ? 1 : 0);
  }
  void flush() {
    if (pending_.empty()) return;
    EncodeOptions options;
    options.specials = SpecialPieces::kNone;
    options.space_prefix = text_begins_;
    for (const std::int32_t id : tokenizer_.encode(pending_, options)) push(id, pending_target_);
    pending_.clear();
    text_begins_ = false;
  }

  const PromptEncoder& encoder_;
  const Tokenizer& tokenizer_;
  const Chat& chat_;
  bool whole_as_released_;
  EncodedChat encoded_;
  std::size_t next_image_ = 0;
  std::string pending_;
  bool pending_target_ = false;
  bool text_begins_ = true;
};

/// Checks roles and marks. Returns true when images stand before the first user content, unmarked.
bool check_chat(const Chat& chat, const PromptConfig& prompt, bool add_generation_prompt) {
  std::size_t marks = 0;
  bool has_user = false;
  std::size_t answers = 0;
  for (std::size_t i = 0; i < chat.turns.size(); ++i) {
    const Turn& turn = chat.turns[i];
    PV_CHECK(turn.role == "system" || turn.role == "user" || turn.role == "assistant",
             "turn {}: the role is \"{}\"; roles are system, user and assistant",
             i + 1,
             turn.role);
    PV_CHECK(
        turn.role != "system" || i == 0, "turn {}: a system turn can only be the first", i + 1);
    has_user |= turn.role == "user";
    answers += turn.role == "assistant" ? 1 : 0;
    if (turn.role != "assistant") marks += count_marks(turn.content);
  }
  PV_CHECK(!add_generation_prompt || chat.turns.empty() || chat.turns.back().role != "assistant",
           "turn {}: the chat already ends with an answer; end it with a user turn",
           chat.turns.size());
  PV_CHECK(
      prompt.chat_template != "plain" || answers <= 1,
      "the plain template takes one assistant turn, this chat has {}; use another chat_template",
      answers);
  PV_CHECK(marks == chat.images.size() || marks == 0,
           "the chat has {} images, but {} <image> marks; write one mark an image, or none",
           chat.images.size(),
           marks);
  PV_CHECK(marks > 0 || chat.images.empty() || has_user || prompt.chat_template == "plain",
           "the chat has images, but no user turn to put them in; add a user turn");
  return marks == 0 && !chat.images.empty();
}

/// One template: how a turn is written, and how an answer begins. `after_system`: it follows the system turn.
void begin_turn(ChatWriter& out, const std::string& chat_template, const std::string& role, bool after_system) {
  const bool user = role == "user";
  if (chat_template == "chatml") {
    out.piece("<|im_start|>");
    out.text(role + "\n");
  } else if (chat_template == "llama3") {
    out.piece("<|start_header_id|>");
    out.text(role);
    out.piece("<|end_header_id|>");
    out.text("\n\n");
  } else if (chat_template == "llava_llama_2") {
    if (role == "assistant") return;
    if (!after_system) out.begin_of_text();
    if (!after_system) out.text("[INST] ");
    if (!user) out.text("<<SYS>>\n");
  } else if (role == "system") {
    return;  // its text alone
  } else if (chat_template == "minicpm") {
    if (out.whole_as_released()) out.new_text();
    out.marker(user ? kMiniCpmUser : kMiniCpmAssistant);
    if (out.whole_as_released()) out.new_text();
  } else if (chat_template == "alpaca") {
    out.text(user ? "### Instruction:\n" : "### Response:");
  } else if (chat_template == "vicuna_v0") {
    out.text(user ? "Human: " : "Assistant:");
  } else {  // vicuna_v1
    out.text(user ? "USER: " : "ASSISTANT:");
  }
}

/// What stands between the answer's beginning and its text, to be learned with it.
std::string_view before_answer(const std::string& chat_template) {
  return chat_template == "vicuna_v1" || chat_template == "vicuna_v0" || chat_template == "llava_llama_2" ? " " : "";
}

void end_turn(ChatWriter& out, const std::string& chat_template, const std::string& role) {
  const bool answer = role == "assistant";
  if (chat_template == "chatml") {
    out.piece("<|im_end|>", answer);
    if (answer && out.whole_as_released()) out.label_as(out.end_id());
    out.text("\n");
  } else if (chat_template == "llama3") {
    out.piece("<|eot_id|>", answer);
    if (answer && out.whole_as_released()) out.label_as(out.id_of("<|eot_id|>"));
  } else if (answer) {
    if (chat_template == "llava_llama_2") out.text(" ", true);
    out.end_of_text();
  } else if (chat_template == "vicuna_v1") {
    out.text(" ");
  } else if (chat_template == "vicuna_v0") {
    out.text("###");
  } else if (chat_template == "alpaca") {
    out.text("\n\n");
  } else if (chat_template == "llava_llama_2") {
    out.text(role == "system" ? "\n<</SYS>>\n\n" : " [/INST]");
  }
}

EncodedChat encode_plain(ChatWriter out, const Chat& chat, bool add_generation_prompt) {
  out.begin_of_text();
  for (std::size_t i = 0; i < chat.images.size(); ++i) out.image();
  for (const Turn& turn : chat.turns) {
    if (turn.role != "assistant") continue;
    out.text(turn.content, true);
    if (out.whole_as_released()) {
      out.text("\n", true);
    } else if (!add_generation_prompt) {
      out.end_of_text();
    }
  }
  return out.finish();
}

/// Templates whose released training code writes something else than the inference code.
bool has_released_form(const std::string& chat_template) {
  return chat_template == "chatml" || chat_template == "llama3" || chat_template == "minicpm" || chat_template == "plain";
}

/// What the released code pads batches with, and takes for padding wherever it stands.
constexpr std::int32_t kPaddingId = 0;

/// The prompt without its padding ids.
EncodedChat without_padding_ids(EncodedChat chat) {
  std::size_t kept = 0, next_visual = 0;
  for (std::size_t i = 0; i < chat.ids.size(); ++i) {
    const bool visual = next_visual < chat.visual_positions.size() && chat.visual_positions[next_visual] == static_cast<std::int32_t>(i);
    if (visual) chat.visual_positions[next_visual++] = static_cast<std::int32_t>(kept);
    if (chat.ids[i] == kPaddingId && !visual) continue;
    chat.ids[kept] = chat.ids[i];
    chat.is_target[kept++] = chat.is_target[i];
  }
  chat.ids.resize(kept);
  chat.is_target.resize(kept);
  return chat;
}

std::vector<std::string_view> needed_pieces(const PromptConfig& prompt) {
  std::vector<std::string_view> pieces = {prompt.filler};
  if (prompt.chat_template == "chatml") pieces.insert(pieces.end(), {"<|im_start|>", "<|im_end|>"});
  if (prompt.chat_template == "llama3") {
    pieces.insert(pieces.end(), {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
  }
  if (prompt.image_layout != "bare") {
    pieces.insert(pieces.end(), {"<image>", "</image>", "<slice>", "</slice>"});
    if (prompt.use_image_id) pieces.insert(pieces.end(), {"<image_id>", "</image_id>"});
  }
  return pieces;
}

}  // namespace

std::vector<std::int32_t> labels_of(const EncodedChat& chat) {
  std::vector<std::int32_t> labels(chat.ids.size(), kNotATarget);
  for (std::size_t i = 1; i < chat.ids.size(); ++i) {
    if (chat.is_target[i] != 0) labels[i - 1] = chat.ids[i];
  }
  for (const auto& [place, label] : chat.replaced_labels) {
    // The last token of all predicts nothing.
    if (place >= 0 && static_cast<std::size_t>(place) + 1 < labels.size()) labels[static_cast<std::size_t>(place)] = label;
  }
  if (!labels.empty()) labels.back() = chat.next_id;
  return labels;
}

std::string describe_image_layout(const PromptConfig& prompt,
                                  const SlicePlan& plan,
                                  int image_index) {
  LayoutText out{prompt, {}};
  write_image_layout(prompt, plan, image_index, out);
  out.flush();
  return out.result;
}

PromptEncoder::PromptEncoder(const Tokenizer& tokenizer, PromptConfig prompt, ImageConfig image)
    : tokenizer_(tokenizer), prompt_(std::move(prompt)), image_(std::move(image)) {
  for (const std::string_view piece : needed_pieces(prompt_)) {
    PV_CHECK(tokenizer_.find(piece).has_value(),
             "chat_template {} with image_layout {} needs the piece \"{}\", which this vocabulary "
             "of {} lacks; "
             "choose a template and layout that fit the vocabulary, or train one with this piece",
             prompt_.chat_template,
             prompt_.image_layout,
             piece,
             tokenizer_.size());
  }
  PV_CHECK(!prompt_.use_image_id || prompt_.image_layout == "minicpmv-2.6",
           "use_image_id has no effect with image_layout {}; set it to false, or use minicpmv-2.6",
           prompt_.image_layout);
  PV_CHECK(prompt_.compat == "right" || has_released_form(prompt_.chat_template),
           "compat released has no effect with chat_template {}, whose released training and inference agree; set it to right",
           prompt_.chat_template);
  const bool ends_with_eos = prompt_.chat_template != "chatml" && prompt_.chat_template != "llama3";
  PV_CHECK(
      !ends_with_eos || tokenizer_.vocabulary().eos_id >= 0,
      "chat_template {} ends answers with EOS, which this vocabulary lacks; use another template",
      prompt_.chat_template);
}

EncodedChat PromptEncoder::encode(const Chat& chat, bool add_generation_prompt) const {
  bool images_lead = check_chat(chat, prompt_, add_generation_prompt);
  const std::string& chat_template = prompt_.chat_template;
  const bool as_released = prompt_.compat == "released" && !add_generation_prompt;
  ChatWriter out(*this, chat, as_released);
  if (chat_template == "plain") return encode_plain(std::move(out), chat, add_generation_prompt);

  const bool begins_once = chat_template != "chatml" && chat_template != "llava_llama_2";
  if (begins_once && !(as_released && chat_template == "minicpm")) out.begin_of_text();
  std::vector<const Turn*> turns;
  const Turn system{"system", prompt_.default_system};
  const bool has_system = !chat.turns.empty() && chat.turns.front().role == "system";
  if (!has_system && !system.content.empty()) turns.push_back(&system);
  for (const Turn& turn : chat.turns) turns.push_back(&turn);

  bool after_system = false;
  for (const Turn* turn : turns) {
    begin_turn(out, chat_template, turn->role, after_system);
    const std::string_view content =
        chat_template == "llama3" ? trimmed(turn->content) : std::string_view(turn->content);
    if (turn->role == "assistant") {
      out.text(before_answer(chat_template), true);
      out.text(content, true);
    } else if (turn == &system) {
      out.text(content);
    } else {
      if (images_lead && turn->role == "user") {
        out.leading_images();
        images_lead = false;
      }
      out.content(content);
    }
    if (as_released && chat_template == "minicpm" && turn->role == "assistant" && turn != turns.back()) {
      out.label_as(out.end_id());  // the answer ends without an end
    } else {
      end_turn(out, chat_template, turn->role);
    }
    after_system = turn->role == "system";
  }
  if (add_generation_prompt || (as_released && chat_template == "llama3")) begin_turn(out, chat_template, "assistant", false);
  const bool masks_padding = prompt_.compat == "released" && add_generation_prompt && chat_template == "chatml";
  return masks_padding ? without_padding_ids(out.finish()) : out.finish();
}

std::string PromptEncoder::answer_text(std::span<const std::int32_t> ids) const {
  const bool drops_padding = prompt_.compat == "released" && (prompt_.chat_template == "chatml" || prompt_.chat_template == "llama3");
  if (!drops_padding) return tokenizer_.decode(ids);
  std::vector<std::int32_t> said(ids.begin(), ids.end());
  std::erase(said, kPaddingId);
  return tokenizer_.decode(said);
}

EncodedChat PromptEncoder::encode_text(const std::string& text) const {
  const Chat none;
  ChatWriter out(*this, none);
  out.begin_of_text();
  out.text(text, true);
  if (tokenizer_.vocabulary().eos_id >= 0) out.end_of_text();
  return out.finish();
}

std::vector<std::int32_t> PromptEncoder::stop_ids() const {
  std::vector<std::int32_t> ids;
  const auto add = [&](std::optional<std::int32_t> id) {
    if (id && *id >= 0 && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  };
  if (prompt_.chat_template == "chatml") {
    add(tokenizer_.require("<|im_end|>"));
    add(tokenizer_.find("<|endoftext|>"));
  } else if (prompt_.chat_template == "llama3") {
    add(tokenizer_.require("<|eot_id|>"));
    add(tokenizer_.find("<|end_of_text|>"));
  }
  add(tokenizer_.vocabulary().eos_id);
  return ids;
}

std::string PromptEncoder::describe_layout(const SlicePlan& plan) const {
  return describe_image_layout(prompt_, plan);
}

}  // namespace pocketvlm
