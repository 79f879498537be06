#include "tiny_round.h"

#include "data/scenes/scene_source.h"
#include "trainer/stage.h"

namespace pocketvlm::test {
namespace {

std::string train_folder(const std::string& name, const std::string& task, int64_t steps) {
  StageConfig stage = tiny_stage(name);
  stage.data.sources[0].scenes = tiny_scenes(task);
  stage.data.batch_tokens = 512;
  stage.steps = steps;
  stage.optimizer.learning_rate = 1e-2;
  LoadedModel model = tiny_model(3);
  return run_stage(stage, model, tiny_tokenizer_path(), test_folder() + "/" + name).checkpoint;
}

}  // namespace

ScenesConfig tiny_scenes(const std::string& task) {
  ScenesConfig scenes;
  scenes.num_classes = 8;
  scenes.max_objects = 2;
  scenes.widths = {56};
  scenes.heights = {56};
  scenes.backgrounds = "plain";
  scenes.tasks = {{task, 1.0}};
  return scenes;
}

const std::string& tiny_policy_folder() {
  static const std::string folder = train_folder("policy", "detailed", 60);
  return folder;
}

const std::string& tiny_judge_folder() {
  static const std::string folder = train_folder("judge", "yes_no", 40);
  return folder;
}

RlaifConfig tiny_round() {
  RlaifConfig config;
  config.name = "tiny";
  config.policy = "policy";
  config.judge = "judge";
  config.prompts.scenes = tiny_scenes("detailed");
  config.prompts.seed = 5;
  config.num_prompts = 8;
  config.rollout.samples = 5;
  config.rollout.max_new_tokens = 40;
  config.batch = 3;
  config.preference.batch_pairs = 4;
  config.preference.epochs = 2;
  config.preference.compute_dtype = "f32";
  config.preference.checkpoint_every = 2;
  config.preference.optimizer.learning_rate = 1e-3;
  config.preference.optimizer.warmup_steps = 0;
  config.seed = 11;
  config.threads = 1;
  return config;
}

std::vector<PreferencePair> tiny_pairs(int count) {
  const std::vector<std::string> chosen = {
      "There is a cat on the left.", "There is a car at the top.", "a tree and an apple"};
  const std::vector<std::string> rejected = {
      "There is a dog.",
      "There is a cat at the top right. There is a tree on the right.",
      "two cars"};
  std::vector<PreferencePair> pairs;
  for (int i = 0; i < count; ++i) {
    PreferencePair pair;
    pair.prompt_id = std::to_string(i);
    pair.index = i;
    pair.question = "describe the picture in detail.";
    pair.chosen = chosen[static_cast<std::size_t>(i) % chosen.size()];
    pair.rejected = rejected[static_cast<std::size_t>(i / 2) % rejected.size()];
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

PictureReader tiny_pictures() {
  auto source = std::make_shared<SceneSource>(tiny_scenes("detailed"), 5);
  return [source](std::int64_t index) { return source->at(index).chat.images.at(0); };
}

}  // namespace pocketvlm::test
