#include "tests/mobile/tiny_model.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/json.h"
#include "base/random.h"
#include "data/preprocess/prompt.h"
#include "mobile/gguf.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kVisionHidden = 32;
constexpr std::int64_t kVisionFfn = 48;
constexpr std::int64_t kPatch = 4;
constexpr std::int64_t kSide = 4;  // positions and, for the fixed encoders, patches a side

struct Folders {
  std::vector<std::string> paths;
  ~Folders() {
    std::error_code ignored;
    for (const std::string& path : paths) std::filesystem::remove_all(path, ignored);
  }
};

// Adds random tensors; each name has its own stream.
class TensorMaker {
 public:
  TensorMaker(GgufWriter& writer, std::uint64_t seed) : writer_(writer), seed_(seed) {}

  void add(const std::string& name,
           GgmlType type,
           std::vector<std::int64_t> ne,
           double spread,
           double centre = 0.0) {
    const std::uint64_t stream = ++count_;
    std::int64_t rows = 1;
    for (std::size_t d = 1; d < ne.size(); ++d) rows *= ne[d];
    const std::int64_t columns = ne[0];
    writer_.add_tensor(name, type, std::move(ne), [=, seed = seed_](const GgufWriter::Sink& sink) {
      Random random({seed, stream});
      std::vector<float> row(static_cast<std::size_t>(columns));
      std::vector<std::byte> blocks(static_cast<std::size_t>(row_bytes(type, columns)));
      for (std::int64_t r = 0; r < rows; ++r) {
        for (float& value : row) value = static_cast<float>(centre + spread * random.normal());
        quantize_row(type, row.data(), columns, blocks.data());
        sink(blocks);
      }
    });
  }

  void matrix(const std::string& name, GgmlType type, std::int64_t in, std::int64_t out) {
    add(name, type, {in, out}, 1.0 / std::sqrt(static_cast<double>(in)));
  }

  void vector(const std::string& name, std::int64_t size, double spread, double centre = 0.0) {
    add(name, GgmlType::kF32, {size}, spread, centre);
  }

  void linear(const std::string& name, GgmlType type, std::int64_t in, std::int64_t out) {
    matrix(name + ".weight", type, in, out);
    vector(name + ".bias", out, 0.1);
  }

  void norm(const std::string& name, std::int64_t size) {
    vector(name + ".weight", size, 0.1, 1.0);
    vector(name + ".bias", size, 0.1);
  }

 private:
  GgufWriter& writer_;
  std::uint64_t seed_;
  std::uint64_t count_ = 0;
};

std::vector<std::string> pieces() {
  std::vector<std::string> all = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) all.push_back(fmt::format("<0x{:02X}>", byte));
  for (const char* special : {"<image>", "</image>", "<slice>", "</slice>", "\xE2\x96\x81"})
    all.emplace_back(special);
  for (char letter = 'a'; letter <= 'z'; ++letter) all.emplace_back(1, letter);
  while (all.size() % 32 != 0) all.push_back(fmt::format("[PAD{}]", all.size()));
  return all;
}

void set_tokenizer(GgufWriter& writer) {
  const std::vector<std::string> all = pieces();
  std::vector<std::int32_t> types;
  for (const std::string& piece : all) {
    TokenType type = TokenType::kNormal;
    if (piece == "<unk>")
      type = TokenType::kUnknown;
    else if (piece == "<s>" || piece == "</s>" || piece.ends_with("image>") ||
             piece.ends_with("slice>"))
      type = TokenType::kControl;
    else if (piece.starts_with("<0x"))
      type = TokenType::kByte;
    else if (piece.starts_with("[PAD"))
      type = TokenType::kUnused;
    types.push_back(static_cast<std::int32_t>(type));
  }
  writer.set_string("tokenizer.ggml.model", "llama");
  writer.set_string("tokenizer.ggml.pre", "default");
  writer.set_strings("tokenizer.ggml.tokens", all);
  writer.set_float32s("tokenizer.ggml.scores", std::vector<float>(all.size(), -1.0F));
  writer.set_int32s("tokenizer.ggml.token_type", types);
  writer.set_uint32("tokenizer.ggml.bos_token_id", 1);
  writer.set_uint32("tokenizer.ggml.eos_token_id", 2);
  writer.set_uint32("tokenizer.ggml.unknown_token_id", 0);
}

void set_shared_configs(const TinyModel& model, GgufWriter& writer) {
  ImageConfig image;
  image.mode = model.resampler() && model.vision_positions != "fixed" ? "slices" : "pad_square";
  image.image_size = kSide * kPatch;
  image.scale_resolution = kSide * kPatch;
  image.max_slices = 4;
  image.patch_size = kPatch;
  PromptConfig prompt;
  prompt.chat_template = "minicpm";
  prompt.image_layout = model.resampler() ? "minicpmv-2.6" : "bare";
  prompt.num_queries = model.projector == "mlp" ? kSide * kSide : 4;
  writer.set_string("pocketvlm.image_config", config_to_json(image).dump());
  writer.set_string("pocketvlm.prompt_config", config_to_json(prompt).dump());
}

void write_language(const TinyModel& model, const std::string& path) {
  GgufWriter writer;
  const std::string& a = model.architecture;
  const std::int64_t hidden = model.hidden();
  const std::int64_t kv = model.kv_heads() * hidden / model.heads();
  const auto vocab = static_cast<std::int64_t>(pieces().size());
  writer.set_string("general.architecture", a);
  writer.set_uint32(a + ".context_length", 512);
  writer.set_uint32(a + ".embedding_length", static_cast<std::uint32_t>(hidden));
  writer.set_uint32(a + ".block_count", static_cast<std::uint32_t>(model.layers()));
  writer.set_uint32(a + ".feed_forward_length", static_cast<std::uint32_t>(model.ffn()));
  writer.set_uint32(a + ".attention.head_count", static_cast<std::uint32_t>(model.heads()));
  writer.set_uint32(a + ".attention.head_count_kv", static_cast<std::uint32_t>(model.kv_heads()));
  writer.set_float32(a + ".attention.layer_norm_rms_epsilon", 1e-5F);
  writer.set_float32(a + ".rope.freq_base", 1000.0F);
  if (a == "minicpm") {
    writer.set_float32("minicpm.embedding_scale", 12.0F);
    writer.set_float32("minicpm.residual_scale", 0.9F);
    writer.set_float32("minicpm.logit_scale", 3.0F);
  }
  set_tokenizer(writer);
  set_shared_configs(model, writer);
  TensorMaker make(writer, model.seed);
  make.add("token_embd.weight", model.type, {hidden, vocab}, 0.5);
  make.vector("output_norm.weight", hidden, 0.1, 1.0);
  if (!model.tied) make.matrix("output.weight", model.type, hidden, vocab);
  for (std::int64_t i = 0; i < model.layers(); ++i) {
    const std::string p = fmt::format("blk.{}.", i);
    make.vector(p + "attn_norm.weight", hidden, 0.1, 1.0);
    make.matrix(p + "attn_q.weight", model.type, hidden, hidden);
    make.matrix(p + "attn_k.weight", model.type, hidden, kv);
    make.matrix(p + "attn_v.weight", model.type, hidden, kv);
    if (a == "qwen2") {
      make.vector(p + "attn_q.bias", hidden, 0.3);
      make.vector(p + "attn_k.bias", kv, 0.3);
      make.vector(p + "attn_v.bias", kv, 0.3);
    }
    make.matrix(p + "attn_output.weight", model.type, hidden, hidden);
    make.vector(p + "ffn_norm.weight", hidden, 0.1, 1.0);
    make.matrix(p + "ffn_gate.weight", model.type, hidden, model.ffn());
    make.matrix(p + "ffn_up.weight", model.type, hidden, model.ffn());
    make.matrix(p + "ffn_down.weight", model.type, model.ffn(), hidden);
  }
  writer.write(path);
}

void add_projector(const TinyModel& model, TensorMaker& make) {
  const std::int64_t hidden = model.hidden();
  const GgmlType type = model.vision_type;
  if (model.resampler()) {
    make.add("resampler.query", GgmlType::kF32, {hidden, 4}, 1.0);
    make.matrix("resampler.kv.weight", type, kVisionHidden, hidden);
    for (const char* name : {"q", "k", "v", "out"})
      make.linear(fmt::format("resampler.attn.{}", name), type, hidden, hidden);
    for (const char* name : {"q", "kv", "post"})
      make.norm(fmt::format("resampler.ln_{}", name), hidden);
    make.matrix("resampler.proj.weight", type, hidden, hidden);
    return;
  }
  if (model.projector == "mlp") {
    make.linear("mm.0", type, kVisionHidden, hidden);
    make.linear("mm.2", type, hidden, hidden);
    return;
  }
  const bool ldp = model.projector == "ldp";
  make.linear(ldp ? "mm.model.mlp.1" : "mm.model.mlp.0", type, kVisionHidden, hidden);
  make.linear(ldp ? "mm.model.mlp.3" : "mm.model.mlp.2", type, hidden, hidden);
  if (!ldp) {
    make.add("mm.model.peg.0.weight", GgmlType::kF16, {3, 3, 1, hidden}, 0.3);
    make.vector("mm.model.peg.0.bias", hidden, 0.1);
    return;
  }
  for (int b = 1; b <= 2; ++b) {
    const std::string p = fmt::format("mm.model.mb_block.{}.block.", b);
    make.add(p + "0.0.weight", GgmlType::kF16, {3, 3, 1, hidden}, 0.3);
    make.norm(p + "0.1", hidden);
    make.linear(p + "1.fc1", type, hidden, hidden / 4);
    make.linear(p + "1.fc2", type, hidden / 4, hidden);
    make.matrix(p + "2.0.weight", type, hidden, hidden);
    make.norm(p + "2.1", hidden);
  }
}

void write_mmproj(const TinyModel& model, const std::string& path) {
  GgufWriter writer;
  const bool clip = !model.resampler();
  writer.set_string("general.architecture", "clip");
  writer.set_bool("clip.has_vision_encoder", true);
  writer.set_string("clip.projector_type", model.projector);
  writer.set_uint32("clip.vision.image_size", kSide * kPatch);
  writer.set_uint32("clip.vision.patch_size", kPatch);
  writer.set_uint32("clip.vision.embedding_length", kVisionHidden);
  writer.set_uint32("clip.vision.feed_forward_length", kVisionFfn);
  writer.set_uint32("clip.vision.block_count", 2);
  writer.set_uint32("clip.vision.projection_dim", 0);
  writer.set_uint32("clip.vision.attention.head_count", 2);
  writer.set_float32("clip.vision.attention.layer_norm_epsilon", 1e-6F);
  writer.set_float32s("clip.vision.image_mean", {0.5F, 0.5F, 0.5F});
  writer.set_float32s("clip.vision.image_std", {0.5F, 0.5F, 0.5F});
  writer.set_bool("clip.use_gelu", true);
  writer.set_string("pocketvlm.vision.positions", clip ? "fixed" : model.vision_positions);
  writer.set_string("pocketvlm.vision.activation", model.activation);
  writer.set_string("pocketvlm.projector.positions", model.projector_positions);
  writer.set_uint32("pocketvlm.projector.heads", 2);
  writer.set_string("pocketvlm.projector.activation", "gelu_erf");
  set_shared_configs(model, writer);
  TensorMaker make(writer, model.seed + 1000);
  make.add("v.patch_embd.weight", GgmlType::kF16, {kPatch, kPatch, 3, kVisionHidden}, 0.2);
  if (!clip) make.vector("v.patch_embd.bias", kVisionHidden, 0.1);
  make.add("v.position_embd.weight",
           GgmlType::kF16,
           {kVisionHidden, kSide * kSide + (clip ? 1 : 0)},
           0.5);
  if (clip) {
    make.vector("v.class_embd", kVisionHidden, 0.5);
    make.norm("v.pre_ln", kVisionHidden);
  } else {
    make.norm("v.post_ln", kVisionHidden);
  }
  for (int i = 0; i < 2; ++i) {
    const std::string p = fmt::format("v.blk.{}.", i);
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"}) {
      make.linear(p + name, model.vision_type, kVisionHidden, kVisionHidden);
    }
    make.norm(p + "ln1", kVisionHidden);
    make.norm(p + "ln2", kVisionHidden);
    make.linear(p + "ffn_up", model.vision_type, kVisionHidden, kVisionFfn);
    make.linear(p + "ffn_down", GgmlType::kF16, kVisionFfn, kVisionHidden);
  }
  add_projector(model, make);
  writer.write(path);
}

}  // namespace

std::string temporary_folder() {
  static Folders folders;
  std::string pattern =
      (std::filesystem::temp_directory_path() / "pocketvlm-mobile-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  folders.paths.push_back(pattern);
  return pattern;
}

TinyFiles write_tiny_model(const TinyModel& model) {
  const std::string folder = temporary_folder();
  TinyFiles files{folder + "/language.gguf", folder + "/mmproj.gguf"};
  write_language(model, files.language);
  write_mmproj(model, files.mmproj);
  return files;
}

EncodedChat noise_picture(const Session& session) {
  Image image(40, 24);
  Random random({7});
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
  Chat chat;
  chat.turns = {{"user", "what is this"}};
  chat.images = {image};
  return session.encoder().encode(chat, true);
}

}  // namespace pocketvlm
