#pragma once

#include <string>
#include <vector>

#include "base/random.h"
#include "data/scenes/class_frequencies.h"
#include "data/scenes/scene_source.h"
#include "data/scenes/signs.h"
#include "data/scenes/sprite_library.h"

namespace pocketvlm {

/// Cell of a 3 x 3 grid over the picture, row by row, that holds the middle of a box.
int cell_of(const SceneObject& box, int width, int height);

/// What a scene must hold beyond the config.
struct SceneWish {
  bool single_object = false;   // naming: exactly one object
  bool many_repeats = false;    // counting: repeated classes are common
  bool with_sign = false;
  std::string sign_language = "en";
};

/// Decides what a scene holds and where. Boxes lie inside the picture and apart from each other where they fit; an object
/// that fits nowhere may be covered by others up to 30 % of its visible pixels, or is left out.
class SceneComposer {
 public:
  SceneComposer(const ScenesConfig& config,
                const ClassFrequencies& frequencies,
                const SpriteLibrary& sprites,
                const SignPainter& signs);

  Scene compose(Random& random, const SceneWish& wish) const;

 private:
  std::vector<int> draw_classes(Random& random, const SceneWish& wish) const;
  void place_sign(Random& random, const std::string& language, Scene& scene) const;
  bool place_object(Random& random, SceneObject object, Scene& scene) const;
  bool covers_too_much(const SceneObject& object, const Scene& scene) const;

  const ScenesConfig& config_;
  const ClassFrequencies& frequencies_;
  const SpriteLibrary& sprites_;
  const SignPainter& signs_;
};

}  // namespace pocketvlm
