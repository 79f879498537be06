/// What stock llama.cpp demands of the two files, checked without it: keys with their types, and the exact set of tensors with
/// their sizes (a language file may hold no other). From llama.cpp's src/llama-model.cpp, src/models and tools/mtmd/clip.cpp,
/// release 0.5.0. One test runs llama.cpp itself where python3 has the package llama-cpp-python.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "base/files.h"
#include "base/json.h"
#include "data/preprocess/resize.h"
#include "data/scenes/scene_source.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "exporter/export.h"
#include "mobile/gguf.h"
#include "model/checkpoint.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kHidden = 256, kFfn = 768, kVocab = 400, kVision = 64;

ModelConfig resampler_model() {
  ModelConfig config;
  config.vision.hidden = kVision;
  config.vision.num_layers = 2;
  config.vision.num_heads = 2;
  config.vision.ffn = 160;
  config.projector.num_queries = 4;
  config.projector.num_heads = 2;
  config.language.vocab = kVocab;
  config.language.num_layers = 2;
  config.language.num_kv_heads = 2;
  config.language.tied_embeddings = false;
  config.language.init_std = 0.2;
  config.image.scale_resolution = 56;
  config.prompt.num_queries = 4;
  return config;
}

ModelConfig mobile_vlm(const std::string& kind) {
  ModelConfig config = resampler_model();
  config.projector.kind = kind;
  config.image.mode = "pad_square";
  config.image.image_size = 336;
  config.vision.positions = "fixed";
  config.vision.position_side = 24;
  config.vision.class_token = config.vision.pre_norm = true;
  config.vision.final_norm = config.vision.patch_bias = false;
  config.vision.activation = "quick_gelu";
  config.prompt.chat_template = "vicuna_v1";
  config.prompt.image_layout = "bare";
  config.prompt.default_system = "It's a test.";
  config.prompt.num_queries = config.projector.num_queries = kind == "mlp" ? 576 : 144;
  return config;
}

std::map<std::string, ModelConfig> layouts() {
  std::map<std::string, ModelConfig> all;
  ModelConfig& v25 = all["2.5"] = resampler_model();
  v25.prompt.image_layout = "minicpmv-2.0";
  ModelConfig& v26 = all["2.6"] = resampler_model();
  v26.language.qkv_bias = true;
  ModelConfig& v20 = all["2.0"] = resampler_model();
  v20.language.scale_embeddings = 12;
  v20.language.scale_residual = 0.5;
  v20.language.scale_logits = 3;
  v20.language.tied_embeddings = true;
  v20.vision.positions = "interpolated";
  v20.vision.position_side = 27;
  v20.vision.activation = "gelu_erf";
  v20.projector.positions = "key_and_query";
  v20.prompt.chat_template = "minicpm";
  v20.prompt.image_layout = "minicpmv-2.0";
  for (const char* kind : {"ldp", "ldpv2", "mlp"}) all[kind] = mobile_vlm(kind);
  return all;
}

class LlamaCppFiles : public testing::Test {
 protected:
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }
  static void SetUpTestSuite() {
    // Two tests of ctest run this suite, maybe side by side.
    folder_ = fmt::format("{}/llama_cpp_files_test-{}", testing::TempDir(), ::getpid());
    std::filesystem::remove_all(folder_);
    ScenesConfig scenes;
    scenes.num_classes = 8;
    scenes.tasks = {{"text", 1.0}};
    const SceneSource source(scenes, 1);
    TokenizerTrainingConfig training;
    training.vocab_size = kVocab;
    training.special_pieces.insert(training.special_pieces.end(), {"<\xe7\x94\xa8\xe6\x88\xb7>", "<AI>"});  // MiniCPM's markers
    std::int64_t next = 0;
    train_tokenizer(training, [&](std::string& text) {
      if (next == 400) return false;
      text = source.at(next++).chat.turns.back().content;
      return true;
    }, folder_ + "/tokenizer.model");
  }

  static ExportedFiles exported(const std::string& name, const ModelConfig& config) {
    config.validate(name);
    const VisionLanguageModel model(config, 3);
    save_model(model, folder_ + "/tokenizer.model", folder_ + "/" + name);
    return export_gguf(folder_ + "/" + name, "f16", "f16", folder_ + "/files-" + name);
  }

  static std::string folder_;
};
std::string LlamaCppFiles::folder_;

/// Name and sizes, fastest first.
using Tensors = std::map<std::string, std::vector<std::int64_t>>;

Tensors tensors_of(const GgufFile& file) {
  Tensors all;
  for (const GgufTensor& tensor : file.tensors()) all[tensor.name] = tensor.ne;
  return all;
}

std::string describe(const Tensors& tensors) {
  std::string text;
  for (const auto& [name, ne] : tensors) text += fmt::format("{} {}\n", name, fmt::join(ne, " "));
  return text;
}

void add_linear(Tensors& all, const std::string& name, std::int64_t in, std::int64_t out, bool bias = true) {
  all[name + ".weight"] = {in, out};
  if (bias) all[name + ".bias"] = {out};
}

void add_norm(Tensors& all, const std::string& name, std::int64_t width) {
  all[name + ".weight"] = all[name + ".bias"] = {width};
}

Tensors language_tensors(const LanguageConfig& language) {
  const std::int64_t q = language.num_heads * language.head_dim, kv = language.num_kv_heads * language.head_dim;
  Tensors all;
  all["token_embd.weight"] = {kHidden, kVocab};
  all["output_norm.weight"] = {kHidden};
  if (!language.tied_embeddings) all["output.weight"] = {kHidden, kVocab};
  for (std::int64_t i = 0; i < language.num_layers; ++i) {
    const std::string block = fmt::format("blk.{}.", i);
    all[block + "attn_norm.weight"] = all[block + "ffn_norm.weight"] = {kHidden};
    add_linear(all, block + "attn_q", kHidden, q, language.qkv_bias);
    add_linear(all, block + "attn_k", kHidden, kv, language.qkv_bias);
    add_linear(all, block + "attn_v", kHidden, kv, language.qkv_bias);
    add_linear(all, block + "attn_output", q, kHidden, false);
    add_linear(all, block + "ffn_gate", kHidden, kFfn, false);
    add_linear(all, block + "ffn_up", kHidden, kFfn, false);
    add_linear(all, block + "ffn_down", kFfn, kHidden, false);
  }
  return all;
}

Tensors vision_tensors(const ModelConfig& config) {
  const bool clip = config.vision.class_token;
  Tensors all;
  all["v.patch_embd.weight"] = {14, 14, 3, kVision};
  if (!clip) all["v.patch_embd.bias"] = {kVision};
  if (clip) all["v.class_embd"] = {kVision};
  all["v.position_embd.weight"] = {kVision, clip ? 577 : 4900};
  add_norm(all, clip ? "v.pre_ln" : "v.post_ln", kVision);
  for (std::int64_t i = 0; i < config.vision.num_layers; ++i) {
    const std::string block = fmt::format("v.blk.{}.", i);
    add_norm(all, block + "ln1", kVision);
    add_norm(all, block + "ln2", kVision);
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_out"}) add_linear(all, block + part, kVision, kVision);
    add_linear(all, block + "ffn_up", kVision, config.vision.ffn);
    add_linear(all, block + "ffn_down", config.vision.ffn, kVision);
  }
  const std::string& kind = config.projector.kind;
  if (kind == "resampler") {
    all["resampler.query"] = {kHidden, config.projector.num_queries};
    all["resampler.pos_embed_k"] = {kHidden, 4900};
    add_linear(all, "resampler.kv", kVision, kHidden, false);
    for (const char* part : {"q", "k", "v", "out"}) add_linear(all, std::string("resampler.attn.") + part, kHidden, kHidden);
    for (const char* part : {"q", "kv", "post"}) add_norm(all, std::string("resampler.ln_") + part, kHidden);
    add_linear(all, "resampler.proj", kHidden, kHidden, false);
  } else if (kind == "mlp") {
    add_linear(all, "mm.0", kVision, kHidden);
    add_linear(all, "mm.2", kHidden, kHidden);
  } else if (kind == "ldpv2") {
    add_linear(all, "mm.model.mlp.0", kVision, kHidden);
    add_linear(all, "mm.model.mlp.2", kHidden, kHidden);
    all["mm.model.peg.0.weight"] = {3, 3, 1, kHidden};
    all["mm.model.peg.0.bias"] = {kHidden};
  } else {
    add_linear(all, "mm.model.mlp.1", kVision, kHidden);
    add_linear(all, "mm.model.mlp.3", kHidden, kHidden);
    for (const char* block : {"mm.model.mb_block.1.block.", "mm.model.mb_block.2.block."}) {
      all[std::string(block) + "0.0.weight"] = {3, 3, 1, kHidden};
      add_norm(all, std::string(block) + "0.1", kHidden);
      add_linear(all, std::string(block) + "1.fc1", kHidden, kHidden / 4);
      add_linear(all, std::string(block) + "1.fc2", kHidden / 4, kHidden);
      add_linear(all, std::string(block) + "2.0", kHidden, kHidden, false);
      add_norm(all, std::string(block) + "2.1", kHidden);
    }
  }
  return all;
}

/// Keys and the types that llama.cpp's readers take, which are strict.
void expect_keys(const GgufFile& file, const std::map<std::string, GgufValueType>& keys, const std::string& name) {
  std::map<std::string, GgufValueType> there;
  for (const auto& [key, value] : file.metadata()) there[key] = value.type;
  for (const auto& [key, type] : keys) {
    ASSERT_TRUE(there.count(key)) << name << ": " << key;
    EXPECT_EQ(gguf_value_type_name(there[key]), std::string(gguf_value_type_name(type))) << name << ": " << key;
  }
}

using enum GgufValueType;

TEST_F(LlamaCppFiles, TheLanguageFileHoldsExactlyWhatEachArchitectureReads) {
  for (const auto& [name, config] : layouts()) {
    const GgufFile file(exported(name, config).language);
    const std::string arch = name == "2.6" ? "qwen2" : name == "2.0" ? "minicpm" : "llama";
    EXPECT_EQ(file.get_string("general.architecture"), arch);
    std::map<std::string, GgufValueType> keys = {
        {arch + ".context_length", kUint32}, {arch + ".embedding_length", kUint32}, {arch + ".block_count", kUint32},
        {arch + ".feed_forward_length", kUint32}, {arch + ".attention.head_count", kUint32}, {arch + ".attention.head_count_kv", kUint32},
        {arch + ".attention.layer_norm_rms_epsilon", kFloat32}, {arch + ".rope.freq_base", kFloat32}, {arch + ".rope.dimension_count", kUint32},
        {"tokenizer.ggml.model", kString}, {"tokenizer.ggml.pre", kString}, {"tokenizer.ggml.tokens", kArray},
        {"tokenizer.ggml.token_type", kArray}, {"tokenizer.ggml.scores", kArray}, {"tokenizer.ggml.bos_token_id", kUint32},
        {"tokenizer.ggml.eos_token_id", kUint32}, {"tokenizer.ggml.add_bos_token", kBool}, {"tokenizer.chat_template", kString}};
    if (arch == "minicpm") {
      for (const char* key : {"embedding_scale", "residual_scale", "logit_scale"}) keys[arch + "." + key] = kFloat32;
    }
    expect_keys(file, keys, name);
    EXPECT_EQ(describe(tensors_of(file)), describe(language_tensors(config.language))) << name;
    for (const GgufTensor& tensor : file.tensors()) {
      EXPECT_EQ(tensor.type, tensor.ne.size() == 1 ? GgmlType::kF32 : GgmlType::kF16) << name << ": " << tensor.name;
    }
  }
}

TEST_F(LlamaCppFiles, TheVisionFileHoldsWhatLibmtmdReads) {
  for (const auto& [name, config] : layouts()) {
    const GgufFile file(exported(name, config).mmproj);
    EXPECT_EQ(file.get_string("general.architecture"), "clip");
    const bool resampler = config.projector.kind == "resampler";
    std::map<std::string, GgufValueType> keys = {
        {"clip.has_vision_encoder", kBool}, {"clip.projector_type", kString}, {"clip.use_gelu", kBool}, {"general.file_type", kUint32},
        {"clip.vision.image_mean", kArray}, {"clip.vision.image_std", kArray}, {"clip.vision.attention.layer_norm_epsilon", kFloat32}};
    for (const char* key : {"image_size", "patch_size", "embedding_length", "feed_forward_length", "block_count", "projection_dim", "attention.head_count"}) {
      keys[std::string("clip.vision.") + key] = kUint32;
    }
    if (resampler) {
      keys["clip.minicpmv_version"] = kInt32;
      keys["clip.minicpmv_query_num"] = kUint32;
    } else {
      keys["clip.vision.feature_layer"] = kArray;
    }
    expect_keys(file, keys, name);
    if (resampler) {
      EXPECT_EQ(file.get_int("clip.minicpmv_version"), name == "2.6" ? 3 : 2) << name;
    } else {
      // The graph stops before the last block of the file unless it is told which to read.
      const auto& layers = std::get<std::vector<std::int64_t>>(file.get_array("clip.vision.feature_layer").values);
      EXPECT_EQ(layers, std::vector<std::int64_t>{config.vision.num_layers}) << name;
      EXPECT_FALSE(file.get_bool("clip.use_gelu")) << name;
    }
    Tensors held = tensors_of(file);
    EXPECT_EQ(held.erase("pocketvlm.position_embd.weight"), name == "2.0" ? 1U : 0U) << name;  // libmtmd passes it over
    EXPECT_EQ(describe(held), describe(vision_tensors(config))) << name;
  }
}

TEST_F(LlamaCppFiles, TheVocabularyHasTheTokensThatAreLookedUpByTheirText) {
  const GgufFile file(exported("tokens", layouts()["2.6"]).language);
  const auto& tokens = std::get<std::vector<std::string>>(file.get_array("tokenizer.ggml.tokens").values);
  const auto& types = std::get<std::vector<std::int64_t>>(file.get_array("tokenizer.ggml.token_type").values);
  EXPECT_EQ(std::set<std::string>(tokens.begin(), tokens.end()).size(), tokens.size());
  ASSERT_EQ(types.size(), tokens.size());
  for (const char* wanted : {"<image>", "</image>", "<slice>", "</slice>"}) {
    const auto found = std::find(tokens.begin(), tokens.end(), wanted);
    ASSERT_NE(found, tokens.end()) << wanted;
    const std::int64_t type = types[static_cast<std::size_t>(found - tokens.begin())];
    EXPECT_TRUE(type == 3 || type == 4) << wanted << " has type " << type;  // control or user-defined: parsed as one token
  }
}

TEST_F(LlamaCppFiles, ChatsThatBeginWithASpecialPieceGetNoSentencepiecePrefixThere) {
  const std::map<std::string, ModelConfig> all = layouts();
  for (const auto& [name, prefix] : {std::pair{"2.0", false}, std::pair{"2.6", false}, std::pair{"ldpv2", true}}) {
    const GgufFile file(exported(name, all.at(name)).language);
    EXPECT_EQ(file.get_bool("tokenizer.ggml.add_space_prefix"), prefix) << name;
    EXPECT_TRUE(Tokenizer::load(file.path()).vocabulary().add_space_prefix) << name;  // the phone reads its own key
  }
}

TEST_F(LlamaCppFiles, TheChatTemplateBringsTheDefaultSystemText) {
  const GgufFile file(exported("ldpv2", layouts()["ldpv2"]).language);
  EXPECT_NE(file.get_string("tokenizer.chat_template").find("'content': 'It\\'s a test.'"), std::string::npos);
}

/// Runs a command and returns what it printed.
std::string output_of(const std::string& command, int& status) {
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
  status = ::pclose(pipe);
  return text;
}

/// Stock llama.cpp itself (tests/exporter/CMakeLists.txt runs it as a test of its own, which may be skipped).
class LlamaCppPeer : public LlamaCppFiles {
 protected:
  void SetUp() override {
    const char* named = std::getenv("POCKETVLM_PYTHON");  // a Python that has the packages, where python3 has not
    python_ = named != nullptr ? named : "python3";
    int status = 0;
    output_of(python_ + " -c 'import llama_cpp, PIL, jinja2' 2>/dev/null", status);
    if (status != 0) {
      GTEST_SKIP() << python_ << " has no llama-cpp-python: install tests/golden/requirements-llama-cpp.txt, or name another Python in "
                   << "POCKETVLM_PYTHON";
    }
  }

  /// What compare_llama_cpp.py prints about two files.
  std::string compare(const ExportedFiles& files, const std::string& arguments) {
    int status = 0;
    const std::string text = output_of(fmt::format("GGML_NO_BACKTRACE=1 {} {}/tests/golden/compare_llama_cpp.py --program {}/pocketvlm-mobile "
                                                   "--model {} --tokens 4 --json {} 2>&1",
                                                   python_, SOURCE_ROOT, BINARY_ROOT, files.language, arguments),
                                       status);
    EXPECT_EQ(status, 0) << text;
    return text;
  }

  std::string python_;
};

TEST_F(LlamaCppPeer, ReadsTheSameTextPrompts) {
  write_file_atomic(folder_ + "/prompts.txt", "what is in the picture?\n\nhow many dogs are there?\n");
  for (const char* name : {"2.0", "2.5", "2.6"}) {
    const std::string text = compare(exported(name, layouts()[name]), "--prompts " + folder_ + "/prompts.txt");
    EXPECT_NE(text.find("tokens   equal 2 of 2"), std::string::npos) << name << "\n" << text;
    EXPECT_EQ(text.find("pixels"), std::string::npos) << text;
  }
}

TEST_F(LlamaCppPeer, SeesTheSameTokensPixelsAndVisualTokens) {
  make_folders(folder_ + "/pictures");
  const SceneSource scenes(ScenesConfig{}, 5);
  for (int i = 0; i < 2; ++i) {
    Image image = scenes.draw(scenes.scene(i));
    image = resize_bicubic(image, 56, 56);
    write_file_atomic(fmt::format("{}/pictures/{}.png", folder_, i), encode_png(image));
  }
  for (const char* name : {"2.0", "2.5", "2.6"}) {
    const ExportedFiles files = exported(name, layouts()[name]);
    const std::string text = compare(files, fmt::format("--mmproj {} --images {}/pictures", files.mmproj, folder_));
    for (const char* stage : {"tokens  ", "pixels  ", "vision  "}) {
      EXPECT_NE(text.find(std::string(stage) + " equal 2 of 2"), std::string::npos) << name << "\n" << text;
    }
  }
}

}  // namespace
}  // namespace pocketvlm
