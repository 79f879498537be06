#include <functional>

#include "scene_testing.h"

namespace pocketvlm {
namespace {

TEST(ScenesConfig, MistakesNameTheFieldAndTheCure) {
  struct Mistake {
    std::function<void(ScenesConfig&)> make;
    std::string place, hint;
  };
  const std::vector<Mistake> mistakes = {
      {[](auto& c) { c.tasks = {{"captoin", 1}}; }, "x.tasks", "caption"},
      {[](auto& c) { c.tasks = {}; }, "x.tasks", "weight"},
      {[](auto& c) { c.tasks = {{"caption", -1}}; }, "x.tasks.caption", "0 or more"},
      {[](auto& c) { c.languages = {{"en", 0}}; }, "x.languages", "above 0"},
      {[](auto& c) { c.languages = {{"sw", 1}}; c.tasks = {{"vqa", 1}}; }, "x.languages.sw", "caption"},
      {[](auto& c) { c.min_objects = 5; }, "x.min_objects", "max_objects"},
      {[](auto& c) { c.min_object_fraction = 0.9; }, "x.min_object_fraction", "max_object_fraction"},
      {[](auto& c) { c.widths = {100, 200}; }, "x.widths", "as many"},
      {[](auto& c) { c.widths = {8}; }, "x.widths[0]", "16"},
      {[](auto& c) { c.widths = {56}; c.heights = {56}; c.sign_probability = 0.5; }, "x.heights[0]", "sign"},
      {[](auto& c) { c.num_classes = 900; }, "x.num_classes", "107"},
      {[](auto& c) { c.classes = {"cat", "baloon"}; }, "x.classes", "balloon"},
      {[](auto& c) { c.classes = {"cat", "cat"}; }, "x.classes", "twice"},
      {[](auto& c) { c.classes = {"cat"}; }, "x.classes", "two"},
      {[](auto& c) { c.classes = {"cat", "dog"}; c.allow_repeats = false; }, "x.max_objects", "2"},
      {[](auto& c) { c.backgrounds = "photos"; }, "x.photo_folder", "photos"},
      {[](auto& c) { c.photo_folder = "/tmp"; }, "x.photo_folder", "photos"},
      {[](auto& c) { c.false_object_rate = 0.1; c.tasks = {{"vqa", 1}}; }, "x.false_object_rate", "caption"},
  };
  ScenesConfig().validate("x");
  for (const Mistake& mistake : mistakes) {
    ScenesConfig config;
    mistake.make(config);
    const std::string error = error_of([&] { config.validate("x"); });
    EXPECT_NE(error.find(mistake.place), std::string::npos) << "\"" << error << "\" lacks " << mistake.place;
    EXPECT_NE(error.find(mistake.hint), std::string::npos) << "\"" << error << "\" lacks " << mistake.hint;
  }
}

TEST(ScenesConfig, AMissingPhotoFolderIsAnError) {
  ScenesConfig config;
  config.backgrounds = "photos";
  config.photo_folder = "/no/such/folder";
  EXPECT_NE(error_of([&] { SceneSource(config, 1); }).find("/no/such/folder"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
