#include "data/scenes/scene_config.h"

#include <algorithm>
#include <vector>

#include "data/scenes/object_classes.h"
#include "data/scenes/scene_text.h"

namespace pocketvlm {
namespace {

const std::vector<std::string>& known_tasks() {
  static const std::vector<std::string> tasks = {
      "name", "caption", "detailed", "vqa", "counting", "position", "ocr", "yes_no", "chat", "text"};
  return tasks;
}

void check_weights(const std::map<std::string, double>& weights, const std::string& path) {
  double total = 0;
  for (const auto& [name, weight] : weights) {
    PV_CHECK(weight >= 0 && weight < 1e12, "{}.{}: weight {} is out of range; use 0 or more", path, name, weight);
    total += weight;
  }
  PV_CHECK(total > 0, "{}: no entry has a weight above 0", path);
}

double weight_of(const std::map<std::string, double>& weights, const std::string& name) {
  const auto found = weights.find(name);
  return found == weights.end() ? 0.0 : found->second;
}

}  // namespace

void ScenesConfig::validate(const std::string& path) const {
  check_weights(tasks, path + ".tasks");
  for (const auto& [task, weight] : tasks) {
    const auto& known = known_tasks();
    if (std::find(known.begin(), known.end(), task) != known.end()) continue;
    const auto close = closest_name(task, known);
    fail("{}.tasks: unknown task \"{}\"{}",
         path,
         task,
         close ? fmt::format(", did you mean \"{}\"?", *close) : std::string(""));
  }
  check_weights(languages, path + ".languages");
  for (const auto& [language, weight] : languages) {
    const bool can = std::any_of(tasks.begin(), tasks.end(), [&](const auto& task) {
      return task.second > 0 && SceneText::can_say(language, task.first);
    });
    PV_CHECK(weight == 0 || can,
             "{}.languages.{}: this language only has names, so it needs a weight for one of the tasks name, caption or text",
             path,
             language);
  }
  PV_CHECK(min_objects <= max_objects,
           "{}.min_objects: {} exceeds max_objects = {}",
           path,
           min_objects,
           max_objects);
  PV_CHECK(min_object_fraction <= max_object_fraction,
           "{}.min_object_fraction: {} exceeds max_object_fraction = {}",
           path,
           min_object_fraction,
           max_object_fraction);
  PV_CHECK(!widths.empty() && widths.size() == heights.size(),
           "{}.widths: {} widths and {} heights; give as many of both, at least one",
           path,
           widths.size(),
           heights.size());
  for (std::size_t i = 0; i < widths.size(); ++i) {
    PV_CHECK(widths[i] >= 16 && widths[i] <= 8192 && heights[i] >= 16 && heights[i] <= 8192,
             "{}.widths[{}]: {} x {} pixels is out of range; use 16 to 8192",
             path,
             i,
             widths[i],
             heights[i]);
    const std::int64_t short_side = std::min(widths[i], heights[i]);
    PV_CHECK((sign_probability == 0 && weight_of(tasks, "ocr") == 0) || short_side >= 80,
             "{}.heights[{}]: {} x {} is too small for a legible sign; use 80 pixels or more, or no signs",
             path,
             i,
             widths[i],
             heights[i]);
    PV_CHECK(short_side * min_object_fraction >= 4,
             "{}.min_object_fraction: {} of {} pixels is less than 4 pixels",
             path,
             min_object_fraction,
             short_side);
  }
  const auto num_selected = static_cast<std::int64_t>(selected_classes(*this, path).size());
  PV_CHECK(num_selected >= 2, "{}.classes: {} class; name two or more", path, num_selected);
  PV_CHECK(allow_repeats || max_objects <= num_selected,
           "{}.max_objects: {} objects without repeats need as many classes, there are {}",
           path,
           max_objects,
           num_selected);
  PV_CHECK((backgrounds == "photos") == !photo_folder.empty(),
           "{}.photo_folder: goes together with backgrounds = photos (backgrounds is {})",
           path,
           backgrounds);
  PV_CHECK((false_object_rate == 0 && missing_object_rate == 0) || weight_of(tasks, "caption") > 0,
           "{}.false_object_rate: noise only concerns captions, and tasks has no caption",
           path);
}

}  // namespace pocketvlm
