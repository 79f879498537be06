#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/preprocess/image.h"

namespace pocketvlm {

/// What lies behind the objects: a pure function of (kind, size, seed). Thread-safe.
class Backgrounds {
 public:
  /// kind: plain | procedural | photos; photo_folder: for photos, every JPEG, PNG and WebP below it.
  /// Throws Error when the folder holds no photograph.
  Backgrounds(const std::string& kind, const std::string& photo_folder);
  ~Backgrounds();

  /// Throws Error naming the file when a photograph is damaged.
  Image draw(int width, int height, std::uint64_t seed) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pocketvlm
