#include "exporter/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "data/scenes/scene_source.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kCalibrationSeed = 0x63616c6962;

/// Width and height, in sides of the square that one slice covers.
constexpr std::array<std::array<double, 2>, 4> kShapes = {{{0.5, 0.5}, {1.5, 2.5}, {3.0, 1.0}, {1.0, 1.0}}};

constexpr std::array<const char*, 5> kQuestions = {"what is in the picture?", "how many things are there, and where?",
                                                   "describe the picture in detail.", "what is written here?",
                                                   "is there a dog in the picture?"};

std::string question_of(const std::string& given, std::int64_t number) {
  return given.empty() ? kQuestions[static_cast<std::size_t>(number) % kQuestions.size()] : given;
}

std::unique_ptr<SceneSource> scenes_of(const ImageConfig& image, const std::array<double, 2>& shape) {
  const auto side = static_cast<double>(image.mode == "slices" ? image.scale_resolution : image.image_size);
  const auto pixels = [side](double sides) { return std::max<std::int64_t>(16, std::llround(sides * side)); };
  ScenesConfig scenes;
  scenes.widths = {pixels(shape[0])};
  scenes.heights = {pixels(shape[1])};
  return std::make_unique<SceneSource>(scenes, kCalibrationSeed);
}

}  // namespace

std::vector<ParityPrompt> calibration_prompts(const ImageConfig& image,
                                              const PromptConfig& prompt,
                                              std::int64_t count,
                                              const std::string& question,
                                              std::int64_t first) {
  std::array<std::unique_ptr<SceneSource>, kShapes.size()> sources;
  const bool chats = prompt.chat_template != "plain";  // which writes neither questions nor second turns
  std::vector<ParityPrompt> prompts;
  for (std::int64_t i = first; i < first + count; ++i) {
    Chat chat;
    chat.turns.push_back({"user", question_of(question, i)});
    const bool text_only = chats && i % 8 == 3;
    if (!text_only) {
      const std::size_t shape = static_cast<std::size_t>(i) % kShapes.size();
      if (!sources[shape]) sources[shape] = scenes_of(image, kShapes[shape]);
      chat.images.push_back(sources[shape]->draw(sources[shape]->scene(i)));
    }
    if (chats && i % 4 == 2) {
      chat.turns.push_back({"assistant", "several things."});
      chat.turns.push_back({"user", question_of(question, i + 1)});
    }
    prompts.push_back({std::move(chat)});
  }
  return prompts;
}

std::vector<Image> calibration_pictures(std::int64_t count) {
  ScenesConfig scenes;
  scenes.widths = {112, 168, 224};
  scenes.heights = {112, 112, 168};
  const SceneSource source(scenes, kCalibrationSeed);
  std::vector<Image> pictures;
  for (std::int64_t i = 0; i < count; ++i) pictures.push_back(source.draw(source.scene(i)));
  return pictures;
}

std::vector<Chat> chats_of(const std::vector<ParityPrompt>& prompts) {
  std::vector<Chat> chats;
  for (const ParityPrompt& prompt : prompts) chats.push_back(prompt.chat);
  return chats;
}

}  // namespace pocketvlm
