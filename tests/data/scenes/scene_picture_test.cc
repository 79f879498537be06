#include <algorithm>
#include <cstdio>
#include <ctime>
#include <set>

#include "base/files.h"
#include "data/scenes/scene_composer.h"
#include "data/scenes/scene_facts.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

/// Pixels that differ when an object is left out, with and without those drawn over it.
struct Visibility {
  int alone = 0, in_scene = 0;
};

Visibility visibility(const SceneSource& source, const Scene& scene, std::size_t number) {
  const auto differing = [](const Image& a, const Image& b) {
    int count = 0;
    for (std::size_t i = 0; i < a.rgb.size(); i += 3) {
      count += a.rgb[i] != b.rgb[i] || a.rgb[i + 1] != b.rgb[i + 1] || a.rgb[i + 2] != b.rgb[i + 2] ? 1 : 0;
    }
    return count;
  };
  Scene without = scene, empty = scene, alone = scene;
  without.objects.erase(without.objects.begin() + static_cast<std::ptrdiff_t>(number));
  empty.objects.clear();
  empty.sign_text.clear();
  alone.objects = {scene.objects[number]};
  alone.sign_text.clear();
  return {differing(source.draw(alone), source.draw(empty)), differing(source.draw(scene), source.draw(without))};
}

TEST(ScenePicture, EveryObjectOfTheTruthIsDrawnInItsBoxAndMostlyVisible) {
  ScenesConfig config;
  config.min_objects = 1;
  config.max_objects = 6;
  config.max_object_fraction = 0.6;
  config.sign_probability = 0.4;
  for (const char* sprites : {"emoji", "stamps"}) {
    config.sprites = sprites;
    const SceneSource source(config, 5);
    for (int index = 0; index < 60; ++index) {
      const Scene scene = source.scene(index);
      for (std::size_t i = 0; i < scene.objects.size(); ++i) {
        const SceneObject& object = scene.objects[i];
        EXPECT_GE(object.x, 0);
        EXPECT_GE(object.y, 0);
        EXPECT_LE(object.x + object.width, scene.width);
        EXPECT_LE(object.y + object.height, scene.height);
        const Visibility seen = visibility(source, scene, i);
        EXPECT_GT(seen.alone, object.width * object.height / 20) << "scene " << index;
        EXPECT_GE(seen.in_scene, 0.6 * seen.alone) << sprites << ", scene " << index << ", object " << i;
      }
    }
  }
}

TEST(ScenePicture, NothingChangesOutsideTheBoxes) {
  const SceneSource source(every_task(), 11);
  for (int index = 0; index < 40; ++index) {
    const Scene scene = source.scene(index);
    Scene empty = scene;
    empty.objects.clear();
    empty.sign_text.clear();
    const Image full = source.draw(scene), background = source.draw(empty);
    std::vector<SceneObject> boxes = scene.objects;
    if (!scene.sign_text.empty()) boxes.push_back(scene.sign_box);
    for (int y = 0; y < scene.height; ++y) {
      for (int x = 0; x < scene.width; ++x) {
        const bool inside = std::any_of(boxes.begin(), boxes.end(), [&](const SceneObject& box) {
          return x >= box.x && x < box.x + box.width && y >= box.y && y < box.y + box.height;
        });
        if (!inside) {
          ASSERT_TRUE(std::equal(full.at(x, y), full.at(x, y) + 3, background.at(x, y)))
              << index << ": " << x << ", " << y;
        }
      }
    }
  }
}

TEST(ScenePicture, SignsAreInkedAndTouchNoObject) {
  ScenesConfig config;
  config.sign_probability = 1;
  config.languages = {{"en", 1}, {"zh", 1}, {"ja", 1}, {"ko", 1}, {"ru", 1}, {"ar", 1}, {"hi", 1}, {"fr", 1}};
  const SceneSource source(config, 3);
  std::set<std::string> texts;
  for (int index = 0; index < 120; ++index) {
    const Scene scene = source.scene(index);
    ASSERT_FALSE(scene.sign_text.empty());
    texts.insert(scene.sign_text);
    const SceneObject& sign = scene.sign_box;
    EXPECT_GE(scene.sign_font_pixels, 9);
    EXPECT_LE(sign.x + sign.width, scene.width) << scene.sign_text;
    for (const SceneObject& object : scene.objects) {
      EXPECT_FALSE(sign.x < object.x + object.width && object.x < sign.x + sign.width &&
                   sign.y < object.y + object.height && object.y < sign.y + sign.height);
    }
    // Inside the border there are both letters and board.
    const Image image = source.draw(scene);
    std::set<int> levels;
    for (int y = sign.y + 2; y < sign.y + sign.height - 2; ++y) {
      for (int x = sign.x + 2; x < sign.x + sign.width - 2; ++x) levels.insert(image.at(x, y)[1]);
    }
    EXPECT_GT(*levels.rbegin() - *levels.begin(), 90) << scene.sign_text;
  }
  EXPECT_GT(texts.size(), 50U);
}

TEST(ScenePicture, PhotographsServeAsBackgrounds) {
  const TestFolder folder;
  Image photo(90, 60);
  for (std::size_t i = 0; i < photo.rgb.size(); ++i) photo.rgb[i] = i % 3 == 0 ? 200 : 10;
  write_file_atomic(folder.file("red.png"), encode_png(photo));
  ScenesConfig config;
  config.backgrounds = "photos";
  config.photo_folder = folder.file("");
  config.min_objects = 0;
  const SceneSource source(config, 2);
  Scene scene = source.scene(0);
  scene.objects.clear();
  const Image image = source.draw(scene);
  EXPECT_EQ(image.at(50, 50)[0], 200);
  EXPECT_EQ(image.at(50, 50)[1], 10);
  write_file_atomic(folder.file("broken.png"), "no picture");
  const SceneSource damaged(config, 2);
  std::string error;
  for (int i = 0; i < 20; ++i) {
    const std::string text = error_of([&] { damaged.at(i); });
    if (!text.empty()) error = text;
  }
  EXPECT_NE(error.find("broken.png"), std::string::npos) << error;
}

TEST(ScenePicture, ComposesFastEnoughToTrainFrom) {
  for (const std::int64_t side : {112, 224}) {
    ScenesConfig config;
    config.widths = {side};
    config.heights = {side};
    config.sign_probability = 0.2;
    const SceneSource source(config, 1);
    for (int i = 0; i < 400; ++i) source.draw(source.scene(i));
    const std::clock_t begin = std::clock();  // processor time: other work on the machine does not count
    for (int i = 0; i < 400; ++i) source.draw(source.scene(i));
    const double microseconds = 1e6 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC / 400;
    std::printf("%3d x %3d: %.0f us a scene\n", static_cast<int>(side), static_cast<int>(side), microseconds);
    EXPECT_LT(microseconds, 20000) << "sprites are not kept";
  }
}

}  // namespace
}  // namespace pocketvlm
