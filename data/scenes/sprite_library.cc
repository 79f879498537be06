#include "data/scenes/sprite_library.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "base/error.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kCacheBytes = std::size_t{192} << 20;

/// Which source pixels make one target pixel, in one direction.
struct Taps {
  int first = 0;
  std::vector<float> weights;  // sum 1
};

std::vector<Taps> resize_taps(int from, int to) {
  std::vector<Taps> taps(static_cast<std::size_t>(to));
  const double scale = static_cast<double>(from) / to;
  for (int i = 0; i < to; ++i) {
    Taps& tap = taps[static_cast<std::size_t>(i)];
    if (scale >= 1) {  // mean over the covered stretch, ends by the covered part
      const double low = i * scale, high = std::min<double>(from, (i + 1) * scale);
      tap.first = static_cast<int>(low);
      for (int x = tap.first; x < high && x < from; ++x) {
        const double part = std::min<double>(high, x + 1) - std::max<double>(low, x);
        tap.weights.push_back(static_cast<float>(part / (high - low)));
      }
    } else {
      const double centre = std::clamp((i + 0.5) * scale - 0.5, 0.0, from - 1.0);
      tap.first = std::min(static_cast<int>(centre), from - 1);
      const double part = centre - tap.first;
      tap.weights.push_back(static_cast<float>(1 - part));
      if (tap.first + 1 < from) tap.weights.push_back(static_cast<float>(part));
    }
  }
  return taps;
}

}  // namespace

Sprite resize_sprite(const Sprite& sprite, int width, int height) {
  if (width == sprite.width && height == sprite.height) return sprite;
  const std::vector<Taps> columns = resize_taps(sprite.width, width);
  const std::vector<Taps> rows = resize_taps(sprite.height, height);
  std::vector<float> narrow(static_cast<std::size_t>(width) * sprite.height * 4);
  for (int y = 0; y < sprite.height; ++y) {
    const std::uint8_t* source = &sprite.rgba[static_cast<std::size_t>(y) * sprite.width * 4];
    for (int x = 0; x < width; ++x) {
      const Taps& tap = columns[static_cast<std::size_t>(x)];
      float* target = &narrow[(static_cast<std::size_t>(y) * width + x) * 4];
      for (std::size_t k = 0; k < tap.weights.size(); ++k) {
        const std::uint8_t* pixel = source + (static_cast<std::size_t>(tap.first) + k) * 4;
        for (int c = 0; c < 4; ++c) target[c] += tap.weights[k] * pixel[c];
      }
    }
  }
  Sprite result{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width) * height * 4)};
  std::vector<float> line(static_cast<std::size_t>(width) * 4);
  for (int y = 0; y < height; ++y) {
    const Taps& tap = rows[static_cast<std::size_t>(y)];
    std::fill(line.begin(), line.end(), 0.0F);
    for (std::size_t k = 0; k < tap.weights.size(); ++k) {
      const float* source = &narrow[(static_cast<std::size_t>(tap.first) + k) * width * 4];
      for (std::size_t i = 0; i < line.size(); ++i) line[i] += tap.weights[k] * source[i];
    }
    std::uint8_t* target = &result.rgba[static_cast<std::size_t>(y) * width * 4];
    for (std::size_t i = 0; i < line.size(); ++i) {
      target[i] = static_cast<std::uint8_t>(std::clamp(line[i] + 0.5F, 0.0F, 255.0F));
    }
    for (int x = 0; x < width; ++x) {  // rounding must not lift a colour above its alpha
      for (int c = 0; c < 3; ++c) target[x * 4 + c] = std::min(target[x * 4 + c], target[x * 4 + 3]);
    }
  }
  return result;
}

Sprite crop_to_visible(const Sprite& sprite) {
  int left = sprite.width, top = sprite.height, right = -1, bottom = -1;
  for (int y = 0; y < sprite.height; ++y) {
    for (int x = 0; x < sprite.width; ++x) {
      if (sprite.alpha(x, y) < 8) continue;
      left = std::min(left, x);
      right = std::max(right, x);
      top = std::min(top, y);
      bottom = std::max(bottom, y);
    }
  }
  if (right < 0) return {};
  Sprite result{right - left + 1, bottom - top + 1, {}};
  for (int y = top; y <= bottom; ++y) {
    const auto begin = sprite.rgba.begin() + (static_cast<std::ptrdiff_t>(y) * sprite.width + left) * 4;
    result.rgba.insert(result.rgba.end(), begin, begin + static_cast<std::ptrdiff_t>(result.width) * 4);
  }
  return result;
}

void blend_sprite(const Sprite& sprite, int x, int y, Image& image) {
  const int left = std::max(0, -x), right = std::min(sprite.width, image.width - x);
  const int top = std::max(0, -y), bottom = std::min(sprite.height, image.height - y);
  if (left >= right) return;
  for (int row = top; row < bottom; ++row) {
    const std::uint8_t* source = &sprite.rgba[(static_cast<std::size_t>(row) * sprite.width + left) * 4];
    std::uint8_t* target = image.at(x + left, y + row);
    for (int column = left; column < right; ++column, source += 4, target += 3) {
      const unsigned rest = 255U - source[3];
      for (int c = 0; c < 3; ++c) {
        // Exact division of [0, 255 * 255] by 255, rounded.
        const unsigned product = target[c] * rest + 128U;
        target[c] = static_cast<std::uint8_t>(source[c] + ((product + (product >> 8)) >> 8));
      }
    }
  }
}

struct SpriteLibrary::State {
  std::vector<std::vector<Sprite>> sources;  // [class][variant]
  std::shared_mutex mutex;
  std::unordered_map<std::uint64_t, std::shared_ptr<const Sprite>> sized;
  std::size_t sized_bytes = 0;

  State(const std::vector<ObjectClass>& classes, int max_side) {
    std::vector<char32_t> glyphs;
    for (const ObjectClass& object_class : classes) {
      if (object_class.files.empty()) glyphs.push_back(object_class.glyph);
    }
    std::vector<Sprite> emoji;
    if (!glyphs.empty()) emoji = load_emoji(glyphs);
    std::size_t next_emoji = 0;
    for (const ObjectClass& object_class : classes) {
      std::vector<Sprite>& variants = sources.emplace_back();
      if (object_class.files.empty()) variants.push_back(std::move(emoji[next_emoji++]));
      for (const std::string& file : object_class.files) variants.push_back(load_stamp(file, max_side));
    }
  }
};

SpriteLibrary::SpriteLibrary(const std::vector<ObjectClass>& classes, int max_side) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<State>> libraries;
  // Emoji come in one size; stamps are reduced to what is needed.
  std::string key;
  for (const ObjectClass& object_class : classes) {
    key += object_class.name + (object_class.files.empty() ? ";" : fmt::format(":{};", max_side));
  }
  const std::lock_guard lock(mutex);
  state_ = libraries[key].lock();
  if (state_) return;
  state_ = std::make_shared<State>(classes, max_side);
  libraries[key] = state_;
}

SpriteLibrary::~SpriteLibrary() = default;

int SpriteLibrary::num_variants(int class_index) const {
  return static_cast<int>(state_->sources[static_cast<std::size_t>(class_index)].size());
}

double SpriteLibrary::aspect(int class_index, int variant) const {
  const Sprite& source =
      state_->sources[static_cast<std::size_t>(class_index)][static_cast<std::size_t>(variant)];
  return static_cast<double>(source.width) / source.height;
}

std::shared_ptr<const Sprite> SpriteLibrary::get(int class_index,
                                                 int variant,
                                                 int width,
                                                 int height) const {
  const std::uint64_t key = (static_cast<std::uint64_t>(class_index) << 44) |
                            (static_cast<std::uint64_t>(variant) << 36) |
                            (static_cast<std::uint64_t>(width) << 18) |
                            static_cast<std::uint64_t>(height);
  {
    const std::shared_lock lock(state_->mutex);
    const auto found = state_->sized.find(key);
    if (found != state_->sized.end()) return found->second;
  }
  const Sprite& source = state_->sources.at(static_cast<std::size_t>(class_index))
                             .at(static_cast<std::size_t>(variant));
  auto sprite = std::make_shared<const Sprite>(resize_sprite(source, width, height));
  const std::unique_lock lock(state_->mutex);
  if (state_->sized_bytes + sprite->rgba.size() <= kCacheBytes &&
      state_->sized.emplace(key, sprite).second) {
    state_->sized_bytes += sprite->rgba.size();
  }
  return sprite;
}

}  // namespace pocketvlm
