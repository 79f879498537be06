#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/preprocess/image_processor.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// One turn. Each "<image>" in the content stands for the next image of the chat; when a chat has
/// images and no mark, they are put before the first user content, each followed by a newline.
/// In assistant content the mark is plain text.
struct Turn {
  std::string role;  // system | user | assistant
  std::string content;
};

/// What a person sees as a conversation: the input of templates, on trainer and phone alike. Images may be outlines: the
/// tokens of an image depend on its size alone.
struct Chat {
  std::vector<Turn> turns;
  std::vector<Image> images;
};

/// How chats become tokens. Part of a model's config, written into checkpoint and GGUF.
struct PromptConfig {
  std::string chat_template = "chatml";
  std::string image_layout = "minicpmv-2.6";
  bool use_image_id = false;
  std::string default_system;
  int64_t num_queries = 64;   // visual tokens a slice
  std::string filler = "<unk>";
  std::string compat = "right";

  void visit_fields(auto&& field) {
    field("chat_template", chat_template,
          "chatml (Qwen2, MiniCPM-V 2.6), llama3 (2.5), minicpm (1.0, 2.0), vicuna_v1 (MobileVLM), plain (image, text, end); "
          "alpaca, vicuna_v0, llava_llama_2: the other formats of MobileVLM's ablation",
          one_of({"chatml", "llama3", "minicpm", "vicuna_v1", "plain", "alpaca", "vicuna_v0", "llava_llama_2"}));
    field("image_layout", image_layout,
          "tokens around the visual ones: minicpmv-2.0 (also 2.5), minicpmv-2.6, bare (MobileVLM: none)",
          one_of({"minicpmv-2.0", "minicpmv-2.6", "bare"}));
    field("use_image_id", use_image_id, "write <image_id>i</image_id> before each image (2.6)");
    field("default_system", default_system, "system turn used when the chat has none; empty: none");
    field("num_queries", num_queries, "visual tokens of one slice", in_range(1, 65536));
    field("filler", filler, "piece whose id stands where visual embeddings go");
    field("compat", compat,
          "released: whole conversations as the released training code writes and labels them, also where its inference code does not; "
          "right: training sees what inference will write",
          one_of({"right", "released"}));
  }
};

/// No loss at this place.
inline constexpr std::int32_t kNotATarget = -100;

/// Token ids of one chat with everything the model needs beside them.
struct EncodedChat {
  std::vector<std::int32_t> ids;                // the filler id at visual places
  std::vector<std::uint8_t> is_target;          // 1: this token is to be learned (assistant text and its end token)
  std::vector<std::int32_t> visual_positions;   // places in ids, slice after slice
  std::vector<std::array<int, 2>> grids;        // (rows, columns) in patches of each slice
  PatchValues patches;                          // [sum of rows * columns, 3 * patch * patch]; outlines have none

  struct ReplacedLabel {
    std::int32_t place;  // in ids
    std::int32_t label;
  };
  std::vector<ReplacedLabel> replaced_labels;   // labels that are not the id that follows (compat "released")
  std::int32_t next_id = kNotATarget;           // what the last token is to predict, where a text goes on in another sample
};

/// What each place is to predict: the id that follows it where that is learned, else kNotATarget.
std::vector<std::int32_t> labels_of(const EncodedChat& chat);

/// The tokens around an image as readable text, with `<unk>*64` for a run of visual tokens; needs no
/// vocabulary. `image_index` counts the images of a chat, for `<image_id>`.
std::string describe_image_layout(const PromptConfig& prompt, const SlicePlan& plan, int image_index = 0);

/// Renders chats with one template, one image layout and one image processor; S is the content:
///
///   chatml     <|im_start|>role\nS<|im_end|>\n ...                     answer: <|im_start|>assistant\n
///   llama3     BOS <|start_header_id|>role<|end_header_id|>\n\nS<|eot_id|> ...   S trimmed
///   minicpm    BOS S (system) <user>S <AI>S EOS ...                     <user> stands for U+7528 U+6237 in < >
///   vicuna_v1  BOS S (system) + " " USER: S + " " ASSISTANT: + " " S EOS ...
///   vicuna_v0  BOS S (system) ### Human: S ### Assistant: + " " S EOS ...        (no spaces around ###)
///   alpaca     BOS S (system) \n\n ### Instruction:\n S \n\n### Response: S EOS ...
///   llava_llama_2  BOS [INST] <<SYS>>\n S (system) \n<</SYS>>\n\n S [/INST] + " " S + " " EOS, BOS again in every round
///   plain      BOS images, S of the one assistant turn, EOS; other text is dropped (MobileVLM stage 1)
///
/// Learned are the tokens of assistant content and the token that ends it. BOS where the vocabulary
/// has one, never with chatml. Unlike the released MiniCPM-V 2.0, minicpm writes EOS after every answer,
/// so that the end is learned at the place where it is generated.
///
/// compat "released" (MiniCPM-V finetune/dataset.py, MobileVLM train.py; reference sheets, sections 5.3 and 4) changes whole
/// conversations, which is what training sees:
///   chatml    what follows an answer's <|im_end|> is labelled as EOS again; an image of one slice gets no <image_id>
///   llama3    the same with <|eot_id|>; the header of one more answer stands at the end
///   minicpm   no BOS; markers and contents are encoded apart; EOS after the last answer alone, yet the end of each answer is
///             labelled as EOS
///   plain     a newline ends the caption instead of EOS
/// and what inference sees where id 0, which pads batches there, is a piece of text (2.5, 2.6: "!"; sheet, section 1.5):
///   chatml    id 0 of a prompt is masked: no token sees it or counts it in its position, as if it were not there
///   chatml, llama3   id 0 is left out of an answer's text (answer_text())
/// The other templates have no such differences and refuse the setting.
///
/// Text cannot write markers: it is encoded without special pieces. Neighbouring texts are encoded as
/// one, but never across the place where an answer begins; so the prompt of a chat is the exact
/// beginning of the chat with its answer. Sentencepiece's dummy prefix stands where a text begins: at
/// the start of the chat, after EOS, and after an image of layout `bare` (the released MobileVLM
/// encodes the two sides of an image separately); never after another special piece.
class PromptEncoder {
 public:
  /// Throws Error when the vocabulary lacks a piece that template or layout needs.
  PromptEncoder(const Tokenizer& tokenizer, PromptConfig prompt, ImageConfig image);

  /// `add_generation_prompt`: ends where the assistant's answer begins. Throws Error on an unknown
  /// role, on marks and images that do not add up, and on a prompt that already ends with an answer.
  EncodedChat encode(const Chat& chat, bool add_generation_prompt) const;

  /// Pure text for language-model pre-training: BOS if the vocabulary has one (no target),
  /// text, EOS if the vocabulary has one.
  EncodedChat encode_text(const std::string& text) const;

  /// The text of an answer's ids, control pieces left out.
  std::string answer_text(std::span<const std::int32_t> ids) const;

  /// Ids that end an answer under this template.
  std::vector<std::int32_t> stop_ids() const;

  /// The tokens around an image as readable text, with `<unk>*64` for a run of visual tokens.
  std::string describe_layout(const SlicePlan& plan) const;

  const PromptConfig& prompt() const { return prompt_; }
  const ImageConfig& image() const { return image_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  const Tokenizer& tokenizer_;
  PromptConfig prompt_;
  ImageConfig image_;
};

}  // namespace pocketvlm
