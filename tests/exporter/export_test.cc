#include "exporter/export.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "data/scenes/scene_source.h"
#include "data/tokenizer_training/tokenizer_training.h"
#include "exporter/block_errors.h"
#include "exporter/importance.h"
#include "exporter/parity.h"
#include "mobile/gguf.h"
#include "mobile/positions.h"

namespace pocketvlm {
namespace {

/// A small model with random weights, saved as a checkpoint; its width allows every block type.
class Export : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = testing::TempDir() + "/export_test";
    std::filesystem::remove_all(folder_);
    ScenesConfig scenes;
    scenes.num_classes = 8;
    scenes.tasks = {{"text", 1.0}};
    const SceneSource source(scenes, 1);
    TokenizerTrainingConfig training;
    training.vocab_size = 400;
    std::int64_t next = 0;
    train_tokenizer(training, [&](std::string& text) {
      if (next == 400) return false;
      text = source.at(next++).chat.turns.back().content;
      return true;
    }, folder_ + "/tokenizer.model");
    save("bucketed", config());
  }

  static ModelConfig config() {
    ModelConfig config;
    config.vision.hidden = 64;
    config.vision.num_layers = 2;
    config.vision.num_heads = 2;
    config.vision.ffn = 128;
    config.vision.position_side = 8;
    config.projector.num_queries = 4;
    config.projector.num_heads = 2;
    config.projector.positions = "key_and_query";
    config.language.vocab = 400;
    config.language.num_layers = 2;
    config.language.num_kv_heads = 2;
    config.language.init_std = 0.2;  // far from uniform, so that the most likely token is clear
    config.image.scale_resolution = 56;
    config.image.max_slices = 4;
    config.prompt.num_queries = 4;
    return config;
  }

  static void save(const std::string& name, const ModelConfig& config) {
    const VisionLanguageModel model(config, 3);
    save_model(model, folder_ + "/tokenizer.model", folder_ + "/" + name);
  }

  static Json gate(const std::string& checkpoint, const ExportedFiles& files, const std::string& type) {
    LoadedModel trainer = load_model(folder_ + "/" + checkpoint);
    ExportConfig bounds;
    bounds.min_agreement_f16 = 0.97;  // random weights have near ties, which trained ones have not
    return check_parity(trainer, files, type, calibration_prompts(trainer.config.image, trainer.config.prompt, 2, ""), bounds);
  }

  /// Overwrites one tensor of a GGUF file with zeros.
  static void erase(const std::string& path, const std::string& tensor) { fill(path, tensor, 0); }

  /// The same with any byte; 0xFF makes NaN of all floats.
  static void fill(const std::string& path, const std::string& tensor, int byte) {
    std::string bytes = read_file(path);
    {
      const GgufFile file(path);
      const GgufTensor& found = file.tensor(tensor);
      const auto offset = static_cast<std::size_t>(found.bytes.data() - file.file().data());
      std::memset(bytes.data() + offset, byte, found.bytes.size());
    }
    write_file_atomic(path, bytes);
  }

  static std::string folder_;
};
std::string Export::folder_;

TEST_F(Export, Float32OnThePhoneEqualsTheTrainer) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/f32");
  const Json parity = gate("bucketed", files, "f32");
  EXPECT_TRUE(parity["passed"].get<bool>()) << parity.dump(1);
  EXPECT_TRUE(parity["pixels_equal"].get<bool>());
  EXPECT_GT(parity["vision_cosine"].get<double>(), 0.999999);
  EXPECT_EQ(parity["agreement"].get<double>(), 1.0) << parity.dump(1);
  EXPECT_EQ(parity["greedy_identical"], parity["prompts"]);
  EXPECT_LT(parity["kl"].get<double>(), 1e-6);
}

TEST_F(Export, EveryTypeRunsAndLosesMoreTheFewerBitsItHas) {
  double previous = 0;
  for (const char* type : {"f16", "q8_0", "q6_k", "q4_k_m"}) {
    const ExportedFiles files = export_gguf(folder_ + "/bucketed", type, "f16", folder_ + "/types");
    const Json parity = gate("bucketed", files, type);
    EXPECT_GT(parity["kl"].get<double>(), previous) << type;
    EXPECT_GT(parity["vision_cosine"].get<double>(), 0.9999) << type;
    previous = parity["kl"].get<double>();
  }
}

/// Other families: projectors, grouped heads, biases, scales, positions, templates.
TEST_F(Export, EveryFamilyEqualsTheTrainer) {
  std::map<std::string, ModelConfig> families;
  ModelConfig qwen = config();
  qwen.language.qkv_bias = true;
  qwen.language.tied_embeddings = false;
  qwen.projector.positions = "key";
  families["qwen2"] = qwen;
  ModelConfig minicpm = config();
  minicpm.language.scale_embeddings = 12.0;
  minicpm.language.scale_residual = 0.5;
  minicpm.language.scale_logits = 3.0;
  minicpm.vision.positions = "interpolated";
  minicpm.vision.activation = "gelu_erf";
  minicpm.prompt.chat_template = "minicpm";
  minicpm.prompt.image_layout = "minicpmv-2.0";
  families["minicpm"] = minicpm;
  ModelConfig strips = qwen;  // Llama3-V 2.5 as released
  strips.vision.strip_quirk = true;
  strips.compat = "released";
  families["strips"] = strips;
  for (const char* kind : {"ldp", "ldpv2", "mlp"}) {
    ModelConfig mobile = config();
    mobile.projector.kind = kind;
    mobile.image.mode = "pad_square";
    mobile.image.image_size = 56;
    mobile.vision.positions = "fixed";
    mobile.vision.position_side = 4;
    mobile.vision.class_token = mobile.vision.pre_norm = true;
    mobile.vision.final_norm = mobile.vision.patch_bias = false;
    mobile.vision.activation = "quick_gelu";
    mobile.prompt.chat_template = "vicuna_v1";
    mobile.prompt.image_layout = "bare";
    mobile.prompt.num_queries = mobile.projector.num_queries = std::string(kind) == "mlp" ? 16 : 4;
    families[kind] = mobile;
  }
  for (const auto& [name, family] : families) {
    family.validate(name);
    save(name, family);
    const ExportedFiles files = export_gguf(folder_ + "/" + name, "f32", "f32", folder_ + "/family-" + name);
    const Json parity = gate(name, files, "f32");
    EXPECT_GT(parity["vision_cosine"].get<double>(), 0.99999) << name << parity.dump(1);
    EXPECT_GE(parity["agreement"].get<double>(), 0.99) << name << parity.dump(1);
  }
}

/// Releases hold them rounded; here the rounding is coarse enough to be seen.
TEST_F(Export, PositionsOfTheQueriesAreThoseOfTheCheckpoint) {
  for (const char* positions : {"key_and_query", "interpolated"}) {
    ModelConfig rounded = config();
    rounded.projector.positions = positions;
    const VisionLanguageModel model(rounded, 3);
    const torch::NoGradGuard no_grad;
    torch::Tensor table = model->named_buffers()["projector.query_positions"];
    table.copy_((table * 4).round() / 4);
    const std::string name = std::string("rounded-") + positions;
    save_model(model, folder_ + "/tokenizer.model", folder_ + "/" + name);
    const ExportedFiles files = export_gguf(folder_ + "/" + name, "f32", "f32", folder_ + "/gguf-" + name);
    EXPECT_GT(gate(name, files, "f32")["vision_cosine"].get<double>(), 0.999999) << positions;
    // The table (worked into the weights of the queries, or beside them) is what the phone reads: without its numbers it sees
    // something else.
    erase(files.mmproj, std::string(positions) == "interpolated" ? kQueryPositionsTensor : "resampler.attn.q.weight");
    EXPECT_LT(gate(name, files, "f32")["vision_cosine"].get<double>(), 0.9999) << positions;
  }
}

TEST_F(Export, TheGateRefusesABrokenVisionFileAndSaysWhere) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/broken_vision");
  erase(files.mmproj, "v.blk.1.ffn_down.weight");
  const Json parity = gate("bucketed", files, "f32");
  EXPECT_FALSE(parity["passed"].get<bool>());
  EXPECT_EQ(parity["first_difference"]["stage"], "visual tokens");
  EXPECT_EQ(parity["first_difference"]["layer"], "v.blk.1") << parity.dump(1);
  EXPECT_LT(parity["first_difference"]["blocks"]["v.blk.0"].get<double>(), 1e-4);
}

TEST_F(Export, TheGateRefusesABrokenProjectorAndSaysWhere) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/broken_projector");
  erase(files.mmproj, "resampler.proj.weight");
  const Json parity = gate("bucketed", files, "f32");
  EXPECT_EQ(parity["first_difference"]["layer"], "projector") << parity.dump(1);
}

TEST_F(Export, TheGateRefusesABrokenLanguageFileAndSaysWhere) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/broken_language");
  erase(files.language, "blk.0.attn_v.weight");
  const Json parity = gate("bucketed", files, "f32");
  EXPECT_FALSE(parity["passed"].get<bool>());
  EXPECT_EQ(parity["first_difference"]["stage"], "decoder position");
  EXPECT_EQ(parity["first_difference"]["layer"], "blk.0") << parity.dump(1);
  EXPECT_EQ(parity["allowed_differences"]["decoder_positions"], 0);
  const ExportedFiles later = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/broken_later");
  erase(later.language, "blk.1.ffn_up.weight");
  EXPECT_EQ(gate("bucketed", later, "f32")["first_difference"]["layer"], "blk.1");
}

/// Of a passed gate only the count of choices that the bound allows is told.
TEST_F(Export, DifferencesWithinTheBoundsAreNotTheFirstBeyondThem) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "q4_0", "f32", folder_ + "/allowed");
  LoadedModel trainer = load_model(folder_ + "/bucketed");
  const std::vector<ParityPrompt> prompts = calibration_prompts(trainer.config.image, trainer.config.prompt, 2, "");
  ExportConfig bounds;
  bounds.min_agreement_q4 = 0.0;
  const Json allowed = check_parity(trainer, files, "q4_0", prompts, bounds);
  EXPECT_TRUE(allowed["passed"].get<bool>());
  EXPECT_TRUE(allowed["first_difference"].is_null());
  ASSERT_GT(allowed["allowed_differences"]["decoder_positions"].get<int>(), 0);
  bounds.min_agreement_q4 = 1.0;
  const Json refused = check_parity(trainer, files, "q4_0", prompts, bounds);
  EXPECT_FALSE(refused["passed"].get<bool>());
  EXPECT_EQ(refused["first_difference"]["place"], allowed["allowed_differences"]["first"]["place"]);
  EXPECT_EQ(refused["allowed_differences"]["decoder_positions"], 0);
}

/// Sound files of every type stay below what a block may differ, on every kind of prompt.
TEST_F(Export, BlocksOfSoundFilesStayWithinTheirBounds) {
  LoadedModel trainer = load_model(folder_ + "/bucketed");
  trainer.model->eval();
  const std::vector<ParityPrompt> prompts = calibration_prompts(trainer.config.image, trainer.config.prompt, 8, "");
  for (const char* type : {"f16", "q8_0", "q6_k", "q4_k_m", "q4_0"}) {
    const std::string mmproj = std::string(type) == "f16" ? "f16" : "q8_0";
    const ExportedFiles files = export_gguf(folder_ + "/bucketed", type, mmproj, folder_ + "/sound");
    SessionOptions options;
    options.packed = "memory";
    Session phone(files.language, files.mmproj, options);
    double largest = 0;
    for (const ParityPrompt& prompt : prompts) {
      const EncodedChat chat = trainer.encoder->encode(prompt.chat, true);
      for (const BlockError& error : language_block_errors(trainer.model, phone, chat)) {
        EXPECT_LT(error.error, max_block_error(type)) << type << " " << error.block;
        largest = std::max(largest, error.error);
      }
      if (chat.grids.empty()) continue;
      for (const BlockError& error : vision_block_errors(trainer.model, phone, chat)) {
        EXPECT_LT(error.error, max_block_error(mmproj)) << mmproj << " " << error.block;
      }
    }
    RecordProperty(std::string("largest_") + type, fmt::format("{:.4f}", largest));
  }
}

TEST(BlockErrors, TheFirstBeyondTheBoundOrTheSteepest) {
  const std::vector<BlockError> steep = {{"blk.0", 0.01}, {"blk.1", 0.08}, {"blk.2", 0.09}};
  EXPECT_EQ(differing_block(steep, 0.5)["layer"], "blk.1");
  EXPECT_EQ(differing_block(steep, 0.085)["layer"], "blk.2");
  EXPECT_EQ(differing_block({{"blk.0", 0.01}, {"blk.1", NAN}, {"blk.2", 3.0}}, 0.5)["layer"], "blk.1");
  EXPECT_THROW(differing_block({}, 0.5), Error);
}

TEST_F(Export, TheGateRefusesOtherTokens) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/other_tokens");
  std::string bytes = read_file(files.language);
  const std::string before = "\"use_image_id\":false", after = "\"use_image_id\":true ";
  const std::size_t at = bytes.find(before);
  ASSERT_NE(at, bytes.npos);
  bytes.replace(at, before.size(), after);
  write_file_atomic(files.language, bytes);
  const Json parity = gate("bucketed", files, "f32");
  EXPECT_FALSE(parity["passed"].get<bool>());
  EXPECT_FALSE(parity["tokens_equal"].get<bool>());
  EXPECT_EQ(parity["first_difference"]["stage"], "tokens");
}

TEST_F(Export, TheGateRefusesNumbersThatAreNone) {
  const ExportedFiles vision = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/nan_vision");
  fill(vision.mmproj, "v.blk.0.ffn_down.bias", 0xFF);
  const Json parity = gate("bucketed", vision, "f32");
  EXPECT_FALSE(parity["passed"].get<bool>());
  EXPECT_EQ(parity["vision_cosine"], -1.0);
  EXPECT_EQ(parity["first_difference"]["layer"], "v.blk.0");
  const ExportedFiles language = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/nan_language");
  fill(language.language, "blk.1.ffn_norm.weight", 0xFF);
  const Json other = gate("bucketed", language, "f32");
  EXPECT_FALSE(other["passed"].get<bool>());
  EXPECT_EQ(other["agreement"], 0.0);
  EXPECT_EQ(other["first_difference"]["layer"], "blk.1");
}

TEST_F(Export, TheGateSeesSlicedPicturesTextAndSecondTurns) {
  for (const std::int64_t side : {56, 448}) {
    ModelConfig released = config();
    released.image.scale_resolution = side;
    const std::vector<ParityPrompt> prompts = calibration_prompts(released.image, released.prompt, 16, "");
    std::int64_t sliced = 0, text_only = 0, two_turns = 0;
    std::set<std::string> questions;
    for (const ParityPrompt& prompt : prompts) {
      text_only += prompt.chat.images.empty() ? 1 : 0;
      two_turns += prompt.chat.turns.size() > 1 ? 1 : 0;
      for (const Image& image : prompt.chat.images) sliced += plan_image(image.width, image.height, released.image).grid.has_value() ? 1 : 0;
      questions.insert(prompt.chat.turns.front().content);
    }
    EXPECT_EQ(sliced, 8) << side;
    EXPECT_EQ(text_only, 2);
    EXPECT_EQ(two_turns, 4);
    EXPECT_GE(questions.size(), 4U);
  }
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/sliced");
  EXPECT_EQ(gate("bucketed", files, "f32")["sliced_prompts"], 1);
  ModelConfig plain = config();
  plain.prompt.chat_template = "plain";
  for (const ParityPrompt& prompt : calibration_prompts(plain.image, plain.prompt, 8, "")) {
    EXPECT_EQ(prompt.chat.images.size(), 1U);
    EXPECT_EQ(prompt.chat.turns.size(), 1U);
  }
}

TEST_F(Export, SameCheckpointSameBytes) {
  const ExportedFiles a = export_gguf(folder_ + "/bucketed", "q4_0", "q8_0", folder_ + "/a");
  const ExportedFiles b = export_gguf(folder_ + "/bucketed", "q4_0", "q8_0", folder_ + "/b");
  EXPECT_EQ(read_file(a.language), read_file(b.language));
  EXPECT_EQ(read_file(a.mmproj), read_file(b.mmproj));
}

/// A tensor of a GGUF file as float32.
std::vector<float> values_of(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = file.tensor(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  const std::int64_t columns = tensor.row_length();
  for (std::int64_t r = 0; r < tensor.num_rows(); ++r) {
    dequantize_row(tensor.type, tensor.bytes.data() + r * row_bytes(tensor.type, columns), columns, &values[static_cast<std::size_t>(r * columns)]);
  }
  return values;
}

/// Sum over all quantized matrices of importance times the squared error of each weight.
double weighted_error(const std::string& path, const std::string& exact_path, const Importance& importance) {
  const GgufFile file(path), exact(exact_path);
  double total = 0;
  for (const auto& [name, columns] : importance.columns) {
    const std::vector<float> got = values_of(file, name), want = values_of(exact, name);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double error = static_cast<double>(got[i]) - static_cast<double>(want[i]);
      total += static_cast<double>(columns[i % columns.size()]) * error * error;
    }
  }
  return total;
}

TEST_F(Export, ImportanceLessensTheErrorsThatMatter) {
  const std::vector<Chat> prompts = chats_of(calibration_prompts(config().image, config().prompt, 3, "what is in the picture?", 4));
  const Importance importance = measure_importance(folder_ + "/bucketed", {"three scenes", prompts, ""}, folder_ + "/importance");
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/importance"));  // no intermediate file stays
  EXPECT_EQ(importance.columns.size(), 2U * 7U + 1U);               // two layers, tied embeddings
  const ExportedFiles exact = export_gguf(folder_ + "/bucketed", "f32", "f16", folder_ + "/importance/exact");
  for (const char* type : {"q4_0", "q4_k_m", "q6_k"}) {
    const ExportedFiles plain = export_gguf(folder_ + "/bucketed", type, "f16", folder_ + "/importance/plain");
    const ExportedFiles weighted = export_gguf(folder_ + "/bucketed", type, "f16", folder_ + "/importance/weighted", &importance);
    EXPECT_LT(weighted_error(weighted.language, exact.language, importance), weighted_error(plain.language, exact.language, importance))
        << type;
    EXPECT_EQ(read_file(plain.mmproj), read_file(weighted.mmproj));
    const GgufFile file(weighted.language);
    EXPECT_EQ(file.get_string("quantize.imatrix.dataset"), "three scenes");
    EXPECT_EQ(file.get_int("quantize.imatrix.entries_count", 0, 1000), 15);
    EXPECT_EQ(file.get_int("quantize.imatrix.chunks_count", 0, 1000), 3);
    EXPECT_EQ(GgufFile(plain.language).get_string_or("quantize.imatrix.dataset", "none"), "none");
    EXPECT_TRUE(gate("bucketed", weighted, type)["pixels_equal"].get<bool>());
  }
}

/// The first matrices read the normed embeddings, which are known without a model.
TEST_F(Export, ImportanceIsTheMeanSquareOfWhatAMatrixReads) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/squares");
  SessionOptions options;
  options.packed = "none";
  Session session(files.language, "", options);
  EncodedChat text;
  text.ids = {5, 7, 7, 300, 11};
  InputSquares squares;
  session.observe(&squares);
  session.forward_logits(text);
  session.observe(nullptr);
  session.forward_logits(text);
  const GgufFile file(files.language);
  const std::vector<float> table = values_of(file, "token_embd.weight"), norm = values_of(file, "blk.0.attn_norm.weight");
  const auto hidden = norm.size();
  std::vector<double> want(hidden);
  for (const std::int32_t id : text.ids) {
    const float* row = &table[static_cast<std::size_t>(id) * hidden];
    double squared = 0;
    for (std::size_t c = 0; c < hidden; ++c) squared += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    const double scale = 1.0 / (squared / static_cast<double>(hidden) + session.language().norm_eps);
    for (std::size_t c = 0; c < hidden; ++c) want[c] += std::pow(static_cast<double>(row[c]) * static_cast<double>(norm[c]), 2) * scale / 5.0;
  }
  const Importance importance = to_importance(squares);
  const float* got = importance.find("blk.0.attn_v.weight", static_cast<std::int64_t>(hidden));
  ASSERT_NE(got, nullptr);
  for (std::size_t c = 0; c < hidden; ++c) EXPECT_NEAR(got[c], std::max(want[c], 1e-3), 1e-4 * (1 + want[c])) << c;
  for (const auto& [name, entry] : squares.entries()) EXPECT_EQ(entry.rows, 5) << name;
  EXPECT_EQ(squares.entries().at("blk.1.ffn_down.weight").sums.size(), static_cast<std::size_t>(session.language().ffn));
  EXPECT_EQ(importance.find("output_norm.weight", 1), nullptr);
  EXPECT_THROW(importance.find("blk.0.ffn_up.weight", 7), Error);
}

/// Passages of 512 tokens, each as if nothing stood before it.
TEST_F(Export, ImportanceOfTextIsThatOfItsPassages) {
  const ExportedFiles files = export_gguf(folder_ + "/bucketed", "f32", "f32", folder_ + "/passages");
  SessionOptions options;
  options.packed = "none";
  Session session(files.language, "", options);
  std::string text;
  while (text.size() < 3000) text += "a red circle and " + std::to_string(text.size()) + " dogs. ";
  const std::vector<std::int32_t> ids = session.encoder().encode_text(text).ids;
  ASSERT_GT(ids.size(), 600U);
  InputSquares squares;
  session.observe(&squares);
  for (std::size_t begin = 0; begin < ids.size(); begin += 512) {
    EncodedChat passage;
    passage.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(std::min(begin + 512, ids.size())));
    session.forward_logits(passage);
  }
  session.observe(nullptr);
  const Importance importance = measure_importance(session, {"text", {}, text});
  EXPECT_EQ(importance.columns, to_importance(squares).columns);
  EXPECT_EQ(importance.tokens, static_cast<std::int64_t>(ids.size()));
  EXPECT_EQ(importance.prompts, static_cast<std::int64_t>((ids.size() + 511) / 512));
}

/// Columns that nothing read still count a little, and a matrix that read nothing but zeros counts evenly.
TEST(Importance, HasAFloor) {
  InputSquares squares;
  const std::vector<float> rows = {3.0F, 0.0F, 1.0F, 0.0F};
  squares.add("blk.0.ffn_gate.weight", 2, 0, 2, rows.data(), 2);
  const std::vector<float> zeros(2);
  squares.add("blk.0.ffn_down.weight", 2, 0, 1, zeros.data(), 1);
  squares.add("blk.0.ffn_down.weight", 2, 1, 1, zeros.data(), 1);
  const Importance importance = to_importance(squares);
  EXPECT_EQ(importance.columns.at("blk.0.ffn_up.weight"), (std::vector<float>{5.0F, 0.0025F}));
  EXPECT_EQ(importance.columns.at("blk.0.ffn_down.weight"), (std::vector<float>{1.0F, 1.0F}));
}

TEST_F(Export, ImportanceNeedsPrompts) {
  EXPECT_THROW(measure_importance(folder_ + "/bucketed", {}, folder_ + "/no_prompts"), Error);
}

TEST_F(Export, UncheckedFilesGetTheirNamesOnce) {
  ExportedFiles files = export_gguf(folder_ + "/bucketed", "f16", "f16", folder_ + "/unchecked", nullptr, kUncheckedMark);
  EXPECT_TRUE(files.language.ends_with("/language-f16.unchecked.gguf"));
  accept_files(files);
  EXPECT_TRUE(files.mmproj.ends_with("/unchecked/mmproj-f16.gguf"));
  EXPECT_TRUE(std::filesystem::exists(files.mmproj) && std::filesystem::exists(files.language));
  EXPECT_THROW(accept_files(files), Error);
}

TEST_F(Export, AFolderThatIsNoCheckpointIsAnError) {
  EXPECT_THROW(export_gguf("/nowhere", "f16", "f16", folder_ + "/x"), Error);
  EXPECT_THROW(export_gguf(folder_ + "/bucketed", "q3", "f16", folder_ + "/x"), Error);
}

}  // namespace
}  // namespace pocketvlm
