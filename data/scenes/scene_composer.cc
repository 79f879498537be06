#include "data/scenes/scene_composer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr double kSizeStep = 1.06;       // sizes form a ladder, so that few sprites are made and kept
constexpr double kLargestCover = 0.30;   // of an object's visible pixels, by all later objects
constexpr double kLineMargin = 0.035;    // middles keep this far from the lines of the 3 x 3 grid

bool boxes_meet(const SceneObject& a, const SceneObject& b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

bool near_line(double middle, int length) {
  const double part = middle / length;
  return std::abs(part - 1.0 / 3) < kLineMargin || std::abs(part - 2.0 / 3) < kLineMargin;
}

bool position_is_clear(const SceneObject& box, const Scene& scene) {
  return !near_line(box.x + box.width * 0.5, scene.width) &&
         !near_line(box.y + box.height * 0.5, scene.height);
}

/// Puts the box's middle at random into a random cell of the grid, then moves the box inside the picture.
void draw_position(Random& random, const Scene& scene, SceneObject& box) {
  const double column = static_cast<double>(random.below(3)), row = static_cast<double>(random.below(3));
  const double middle_x = (column + random.uniform(0.1, 0.9)) / 3 * scene.width;
  const double middle_y = (row + random.uniform(0.1, 0.9)) / 3 * scene.height;
  box.x = std::clamp(static_cast<int>(middle_x - box.width * 0.5), 0, std::max(0, scene.width - box.width));
  box.y = std::clamp(static_cast<int>(middle_y - box.height * 0.5), 0, std::max(0, scene.height - box.height));
}

}  // namespace

int cell_of(const SceneObject& box, int width, int height) {
  const int column = std::min(2, (2 * box.x + box.width) * 3 / (2 * width));
  const int row = std::min(2, (2 * box.y + box.height) * 3 / (2 * height));
  return row * 3 + column;
}

SceneComposer::SceneComposer(const ScenesConfig& config,
                             const ClassFrequencies& frequencies,
                             const SpriteLibrary& sprites,
                             const SignPainter& signs)
    : config_(config), frequencies_(frequencies), sprites_(sprites), signs_(signs) {}

Scene SceneComposer::compose(Random& random, const SceneWish& wish) const {
  Scene scene;
  const auto size = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(config_.widths.size())));
  scene.width = static_cast<int>(config_.widths[size]);
  scene.height = static_cast<int>(config_.heights[size]);
  scene.background_seed = random.next();
  if (wish.with_sign) place_sign(random, wish.sign_language, scene);
  for (const int class_index : draw_classes(random, wish)) {
    SceneObject object;
    object.class_index = class_index;
    object.variant = static_cast<int>(random.below(sprites_.num_variants(class_index)));
    place_object(random, object, scene);
  }
  return scene;
}

std::vector<int> SceneComposer::draw_classes(Random& random, const SceneWish& wish) const {
  const std::int64_t count =
      wish.single_object ? 1 : random.between(config_.min_objects, config_.max_objects);
  std::vector<int> classes, used;
  for (std::int64_t i = 0; i < count; ++i) {
    if (i > 0 && config_.allow_repeats && random.chance(wish.many_repeats ? 0.5 : 0.2)) {
      classes.push_back(random.pick(classes));
      continue;
    }
    const int next = i == 0 ? frequencies_.draw(random, used)
                            : frequencies_.draw_companion(random, classes.front(), used);
    if (next < 0) break;
    classes.push_back(next);
    used.push_back(next);
  }
  return classes;
}

void SceneComposer::place_sign(Random& random, const std::string& language, Scene& scene) const {
  const std::vector<std::string>& words = sign_words(language);
  scene.sign_text = words.empty() || random.chance(0.25)
                        ? sign_number(language, static_cast<int>(random.between(1, 99)))
                        : random.pick(words);
  const int short_side = std::min(scene.width, scene.height);
  int pixels = std::max(12, static_cast<int>(short_side * random.uniform(0.13, 0.19)));
  SignPainter::Size size = signs_.measure(scene.sign_text, pixels);
  while (size.width > scene.width * 0.8 && pixels > 9) {
    size = signs_.measure(scene.sign_text, --pixels);
  }
  scene.sign_font_pixels = pixels;
  scene.sign_box.class_index = -1;
  scene.sign_box.width = std::min(size.width, scene.width);
  scene.sign_box.height = std::min(size.height, scene.height);
  for (int attempt = 0; attempt < 24; ++attempt) {
    draw_position(random, scene, scene.sign_box);
    if (position_is_clear(scene.sign_box, scene)) break;
  }
}

bool SceneComposer::place_object(Random& random, SceneObject object, Scene& scene) const {
  const int short_side = std::min(scene.width, scene.height);
  const double least = config_.min_object_fraction * short_side;
  const double wanted = random.uniform(config_.min_object_fraction, config_.max_object_fraction) * short_side;
  double side = least;
  while (side * kSizeStep <= wanted) side *= kSizeStep;
  const double aspect = sprites_.aspect(object.class_index, object.variant);
  constexpr int kAttempts = 72;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    // First a free place with a clear position, then smaller, then any free place, at last a slight overlap.
    if (attempt > 0 && attempt % 8 == 0) side = std::max(least, side / (kSizeStep * kSizeStep));
    object.width = std::max(2, static_cast<int>(std::lround(aspect >= 1 ? side : side * aspect)));
    object.height = std::max(2, static_cast<int>(std::lround(aspect >= 1 ? side / aspect : side)));
    object.width = std::min(object.width, scene.width);
    object.height = std::min(object.height, scene.height);
    draw_position(random, scene, object);
    if (attempt < 40 && !position_is_clear(object, scene)) continue;
    if (!scene.sign_text.empty() && boxes_meet(object, scene.sign_box)) continue;
    const bool apart = std::none_of(scene.objects.begin(), scene.objects.end(), [&](const SceneObject& other) {
      return boxes_meet(object, other);
    });
    if (!apart && (attempt < 56 || covers_too_much(object, scene))) continue;
    scene.objects.push_back(object);
    return true;
  }
  return false;
}

bool SceneComposer::covers_too_much(const SceneObject& object, const Scene& scene) const {
  std::vector<SceneObject> objects = scene.objects;
  objects.push_back(object);
  for (std::size_t i = 0; i + 1 < objects.size(); ++i) {
    const SceneObject& below = objects[i];
    if (!boxes_meet(below, object)) continue;
    const auto sprite = sprites_.get(below.class_index, below.variant, below.width, below.height);
    int visible = 0, covered = 0;
    for (int y = 0; y < below.height; ++y) {
      for (int x = 0; x < below.width; ++x) {
        if (sprite->alpha(x, y) < 128) continue;
        ++visible;
        const int picture_x = below.x + x, picture_y = below.y + y;
        covered += std::any_of(objects.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                               objects.end(),
                               [&](const SceneObject& above) {
                                 const int column = picture_x - above.x, row = picture_y - above.y;
                                 if (column < 0 || row < 0 || column >= above.width || row >= above.height) {
                                   return false;
                                 }
                                 return sprites_.get(above.class_index, above.variant, above.width, above.height)
                                            ->alpha(column, row) >= 32;
                               });
      }
    }
    if (covered > kLargestCover * visible) return true;
  }
  return false;
}

}  // namespace pocketvlm
