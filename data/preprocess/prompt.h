#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/preprocess/image_processor.h"
#include "data/preprocess/tokenizer.h"

namespace pocketvlm {

/// One turn. Each "<image>" in the content stands for the next image of the chat; when a chat has
/// images and no mark, they are put before the first user content, each followed by a newline.
struct Turn {
  std::string role;  // system | user | assistant
  std::string content;
};

/// What a person sees as a conversation: the input of templates, on trainer and phone alike.
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

  void visit_fields(auto&& field) {
    field("chat_template", chat_template,
          "chatml (Qwen2, MiniCPM-V 2.6), llama3 (2.5), minicpm (1.0, 2.0), vicuna_v1 (MobileVLM), plain (image, text, end)",
          one_of({"chatml", "llama3", "minicpm", "vicuna_v1", "plain"}));
    field("image_layout", image_layout,
          "tokens around the visual ones: minicpmv-2.0 (also 2.5), minicpmv-2.6, bare (MobileVLM: none)",
          one_of({"minicpmv-2.0", "minicpmv-2.6", "bare"}));
    field("use_image_id", use_image_id, "write <image_id>i</image_id> before each image (2.6)");
    field("default_system", default_system, "system turn used when the chat has none; empty: none");
    field("num_queries", num_queries, "visual tokens of one slice", in_range(1, 65536));
    field("filler", filler, "piece whose id stands where visual embeddings go");
  }
};

/// Token ids of one chat with everything the model needs beside them.
struct EncodedChat {
  std::vector<std::int32_t> ids;                // the filler id at visual places
  std::vector<std::uint8_t> is_target;          // 1: this token is to be learned (assistant text and its end token)
  std::vector<std::int32_t> visual_positions;   // places in ids, slice after slice
  std::vector<std::array<int, 2>> grids;        // (rows, columns) in patches of each slice
  std::vector<float> patches;                   // [sum of rows * columns, 3 * patch * patch]
};

/// Renders chats with one template, one image layout and one image processor.
class PromptEncoder {
 public:
  /// Throws Error when the vocabulary lacks a piece that template or layout needs.
  PromptEncoder(const Tokenizer& tokenizer, PromptConfig prompt, ImageConfig image);

  /// `add_generation_prompt`: ends where the assistant's answer begins.
  EncodedChat encode(const Chat& chat, bool add_generation_prompt) const;

  /// Pure text for language-model pre-training: BOS if the vocabulary has one, text, EOS; all targets.
  EncodedChat encode_text(const std::string& text) const;

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
