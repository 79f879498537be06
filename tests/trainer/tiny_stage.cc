#include "tiny_stage.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/files.h"
#include "data/scenes/scene_source.h"
#include "data/tokenizer_training/tokenizer_training.h"

namespace pocketvlm::test {
namespace {

constexpr const char* kFolderVariable = "POCKETVLM_TRAINER_TEST_FOLDER";
constexpr int64_t kTrainingTexts = 400;

/// Removes the folder when the process that made it ends.
struct Folder {
  Folder() {
    if (const char* inherited = ::getenv(kFolderVariable)) {
      path = inherited;
      return;
    }
    std::string name = testing::TempDir() + "pocketvlm_trainer_XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) fail("{}: cannot be made", name);
    path = name;
    is_mine = true;
    ::setenv(kFolderVariable, path.c_str(), 1);
  }
  ~Folder() {
    if (is_mine) std::filesystem::remove_all(path);
  }
  std::string path;
  bool is_mine = false;
};

ScenesConfig tiny_scenes() {
  ScenesConfig scenes;
  scenes.num_classes = 8;
  scenes.max_objects = 2;
  scenes.widths = {56};
  scenes.heights = {56};
  scenes.backgrounds = "plain";
  return scenes;
}

}  // namespace

const std::string& test_folder() {
  static const Folder folder;
  return folder.path;
}

const std::string& tiny_tokenizer_path() {
  static const std::string path = [] {
    const std::string file = test_folder() + "/tokenizer.model";
    if (std::filesystem::exists(file)) return file;
    ScenesConfig scenes = tiny_scenes();
    scenes.tasks = {{"text", 1.0}};
    const SceneSource source(scenes, 7);
    TokenizerTrainingConfig config;
    config.vocab_size = 340;
    int64_t next = 0;
    train_tokenizer(
        config,
        [&](std::string& sentence) {
          if (next == kTrainingTexts) return false;
          sentence = source.at(next++).chat.turns.back().content;
          return true;
        },
        file);
    return file;
  }();
  return path;
}

ModelConfig tiny_model_config() {
  ModelConfig config;
  config.family = "tiny";
  config.vision.hidden = 32;
  config.vision.num_layers = 2;
  config.vision.num_heads = 2;
  config.vision.ffn = 64;
  config.vision.position_side = 8;
  config.projector.num_queries = 4;
  config.projector.num_heads = 2;
  config.language.vocab = 340;
  config.language.hidden = 32;
  config.language.num_layers = 2;
  config.language.num_heads = 2;
  config.language.num_kv_heads = 1;
  config.language.head_dim = 16;
  config.language.ffn = 64;
  config.language.max_positions = 256;
  config.image.scale_resolution = 56;
  config.image.max_slices = 2;
  config.prompt.num_queries = 4;
  config.validate("tiny");
  return config;
}

LoadedModel tiny_model(uint64_t seed) {
  LoadedModel loaded;
  loaded.config = tiny_model_config();
  loaded.model = VisionLanguageModel(loaded.config, seed);
  loaded.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(tiny_tokenizer_path()));
  loaded.encoder =
      std::make_unique<PromptEncoder>(*loaded.tokenizer, loaded.config.prompt, loaded.config.image);
  return loaded;
}

StageConfig tiny_stage(const std::string& name) {
  StageConfig config;
  config.name = name;
  SourceConfig source;
  source.scenes = tiny_scenes();
  config.data.sources = {source};
  config.data.batch_tokens = 256;
  config.data.max_tokens = 200;
  config.data.look_ahead = 8;
  config.data.workers = 1;
  config.optimizer.learning_rate = 3e-3;
  config.optimizer.warmup_steps = 2;
  config.steps = 4;
  config.compute_dtype = "f32";
  config.checkpoint_every = 0;
  config.log_every = 2;
  config.threads = 1;
  return config;
}

SourceConfig third_damaged_pictures(const std::string& folder, bool all) {
  make_folders(folder);
  Image picture(56, 56);
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) picture.rgb[i] = static_cast<uint8_t>(i * 37 + i / 97);
  const std::string png = encode_png(picture), answer = "a dog and a cat";
  write_file_atomic(folder + "/good.png", png);
  write_file_atomic(folder + "/cut.png", png.substr(0, png.size() / 2));
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    Json record = {{"id", std::to_string(i)}, {"image", all || i % 3 == 1 ? "cut.png" : "good.png"}};
    record["conversations"].push_back({{"from", "human"}, {"value", "<image>\nwhat is in the picture?"}});
    record["conversations"].push_back({{"from", "gpt"}, {"value", answer.substr(0, static_cast<std::size_t>(3 + i % 12))}});
    lines += record.dump() + "\n";
  }
  write_file_atomic(folder + "/data.jsonl", lines);
  SourceConfig source;
  source.kind = "conversations";
  source.path = folder + "/data.jsonl";
  return source;
}

StageConfig tiny_contrastive_stage(const std::string& name) {
  StageConfig config = tiny_stage(name);
  config.objective = "contrastive";
  config.trainable = {"vision_encoder.*"};
  ScenesConfig& scenes = config.data.sources[0].scenes;
  scenes.max_objects = 1;
  scenes.min_object_fraction = 0.6;
  scenes.max_object_fraction = 0.9;
  scenes.tasks = {{"name", 1.0}};
  config.input.chat_template = "plain";
  return config;
}

std::map<std::string, torch::Tensor> copy_weights(const LoadedModel& model) {
  std::map<std::string, torch::Tensor> result;
  for (const auto& item : model.model->named_parameters())
    result[item.key()] = item.value().detach().clone();
  return result;
}

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const torch::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.nbytes() == y.nbytes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

std::vector<Json> read_lines(const std::string& path) {
  std::vector<Json> lines;
  std::istringstream stream(read_file(path));
  std::string line;
  while (std::getline(stream, line)) lines.push_back(parse_json(line, path));
  return lines;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace pocketvlm::test
