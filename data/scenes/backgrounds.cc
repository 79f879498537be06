#include "data/scenes/backgrounds.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "data/preprocess/resize.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kBackgroundStream = 0x626b67;
constexpr std::size_t kPhotoBytes = std::size_t{256} << 20;

using Colour = std::array<int, 3>;

// Little saturation and middle brightness: the sprites, which are vivid, stay visible on all of them.
Colour muted_colour(Random& random) {
  const int value = static_cast<int>(random.between(130, 235));
  const int depth = static_cast<int>(random.between(5, 60));
  Colour colour;
  for (int& channel : colour) channel = value - static_cast<int>(random.between(0, depth));
  return colour;
}

Colour near_colour(const Colour& colour, Random& random) {
  const int shift = static_cast<int>(random.between(12, 45)) * (random.chance(0.5) ? 1 : -1);
  Colour result;
  for (std::size_t c = 0; c < 3; ++c) {
    result[c] = std::clamp(colour[c] + shift + static_cast<int>(random.between(-12, 12)), 70, 250);
  }
  return result;
}

/// The 256 steps from one colour to the other.
using Ramp = std::array<std::array<std::uint8_t, 3>, 256>;

Ramp make_ramp(const Colour& from, const Colour& to) {
  Ramp ramp;
  for (int i = 0; i < 256; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      ramp[static_cast<std::size_t>(i)][c] =
          static_cast<std::uint8_t>((from[c] * (255 - i) + to[c] * i + 127) / 255);
    }
  }
  return ramp;
}

/// Fills the picture with ramp[level(x, y)]; integer arithmetic keeps the bytes equal everywhere.
template <typename Level>
void fill(Image& image, const Ramp& ramp, const Level& level) {
  std::uint8_t* target = image.rgb.data();
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x, target += 3) {
      const auto& colour = ramp[static_cast<std::size_t>(level(x, y))];
      target[0] = colour[0];
      target[1] = colour[1];
      target[2] = colour[2];
    }
  }
}

void fill_gradient(Image& image, const Ramp& ramp, Random& random) {
  const int dx = static_cast<int>(random.between(-4, 4));
  const int dy = dx == 0 ? 4 : static_cast<int>(random.between(-4, 4));
  const int low = std::min(0, dx * (image.width - 1)) + std::min(0, dy * (image.height - 1));
  const int high = std::max(0, dx * (image.width - 1)) + std::max(0, dy * (image.height - 1));
  const int factor = (255 << 12) / std::max(1, high - low);
  fill(image, ramp, [&](int x, int y) { return ((x * dx + y * dy - low) * factor) >> 12; });
}

void fill_stripes(Image& image, const Ramp& ramp, Random& random) {
  const int short_side = std::min(image.width, image.height);
  const int period = std::max(3, static_cast<int>(short_side * random.between(6, 20) / 100));
  constexpr int kDirections[][2] = {{1, 0}, {0, 1}, {1, 1}, {1, -1}};
  const auto* direction = kDirections[random.below(4)];
  const int shift = image.height * period;  // a multiple of the period that keeps the sum positive
  const int dx = direction[0], dy = direction[1];
  std::vector<std::uint8_t> bands(static_cast<std::size_t>(image.width + image.height + shift + 1));
  for (std::size_t i = 0; i < bands.size(); ++i) {
    bands[i] = (i / static_cast<std::size_t>(period)) % 2 == 0 ? 0 : 255;
  }
  fill(image, ramp, [&](int x, int y) { return bands[static_cast<std::size_t>(x * dx + y * dy + shift)]; });
}

void fill_checks(Image& image, const Ramp& ramp, Random& random) {
  const int short_side = std::min(image.width, image.height);
  const int period = std::max(3, static_cast<int>(short_side * random.between(8, 25) / 100));
  std::vector<std::uint8_t> bands(static_cast<std::size_t>(std::max(image.width, image.height)));
  for (std::size_t i = 0; i < bands.size(); ++i) {
    bands[i] = (i / static_cast<std::size_t>(period)) % 2 == 0 ? 0 : 255;
  }
  fill(image, ramp, [&](int x, int y) {
    return bands[static_cast<std::size_t>(x)] ^ bands[static_cast<std::size_t>(y)];
  });
}

/// Smooth value noise: a lattice of random levels, linear in between.
void fill_noise(Image& image, const Ramp& ramp, Random& random) {
  const int cells = static_cast<int>(random.between(3, 12));
  const int side = std::max(image.width, image.height);
  const int step = std::max(1, (cells << 8) / side);  // lattice cells a pixel, 8 fractional bits
  const int lattice_width = ((step * image.width) >> 8) + 2;
  const int lattice_height = ((step * image.height) >> 8) + 2;
  std::vector<int> lattice(static_cast<std::size_t>(lattice_width) * lattice_height);
  for (int& level : lattice) level = static_cast<int>(random.below(256));
  std::vector<int> line(static_cast<std::size_t>(lattice_width));
  std::uint8_t* target = image.rgb.data();
  for (int y = 0; y < image.height; ++y) {
    const int cell_y = (y * step) >> 8, part_y = (y * step) & 255;
    for (int i = 0; i < lattice_width; ++i) {
      const std::size_t place = static_cast<std::size_t>(cell_y) * lattice_width + i;
      line[static_cast<std::size_t>(i)] =
          lattice[place] * (256 - part_y) + lattice[place + static_cast<std::size_t>(lattice_width)] * part_y;
    }
    for (int x = 0; x < image.width; ++x, target += 3) {
      const int part_x = (x * step) & 255;
      const int* left = &line[static_cast<std::size_t>((x * step) >> 8)];
      const auto& colour = ramp[static_cast<std::size_t>((left[0] * (256 - part_x) + left[1] * part_x) >> 16)];
      target[0] = colour[0];
      target[1] = colour[1];
      target[2] = colour[2];
    }
  }
}

std::vector<std::string> photos_below(const std::string& folder) {
  std::error_code problem;
  std::vector<std::string> files;
  for (auto entry = std::filesystem::recursive_directory_iterator(folder, problem);
       !problem && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(problem)) {
    std::string extension = entry->path().extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char letter) {
      return static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
    });
    if (extension == ".jpg" || extension == ".jpeg" || extension == ".png" || extension == ".webp") {
      files.push_back(entry->path().string());
    }
  }
  PV_CHECK(!problem, "photo_folder: {}: {}; name a readable folder", folder, problem.message());
  PV_CHECK(!files.empty(), "photo_folder: {}: no .jpg, .png or .webp file in it", folder);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

struct Backgrounds::State {
  bool plain = false;
  std::vector<std::string> photos;
  std::mutex mutex;
  // A photograph shrunk so that it covers a picture of the given size with a little room to move.
  std::map<std::tuple<std::size_t, int, int>, std::shared_ptr<const Image>> shrunk;
  std::size_t shrunk_bytes = 0;

  std::shared_ptr<const Image> photo(std::size_t number, int width, int height) {
    const auto key = std::make_tuple(number, width, height);
    {
      const std::lock_guard lock(mutex);
      const auto found = shrunk.find(key);
      if (found != shrunk.end()) return found->second;
    }
    const Image whole = load_image(photos[number]);
    const double cover =
        1.25 * std::max(static_cast<double>(width) / whole.width, static_cast<double>(height) / whole.height);
    auto image = std::make_shared<const Image>(
        resize_bicubic(whole,
                       std::max(width, static_cast<int>(whole.width * cover)),
                       std::max(height, static_cast<int>(whole.height * cover))));
    const std::lock_guard lock(mutex);
    if (shrunk_bytes + image->rgb.size() <= kPhotoBytes && shrunk.emplace(key, image).second) {
      shrunk_bytes += image->rgb.size();
    }
    return image;
  }
};

Backgrounds::Backgrounds(const std::string& kind, const std::string& photo_folder)
    : state_(std::make_unique<State>()) {
  state_->plain = kind == "plain";
  if (kind == "photos") state_->photos = photos_below(photo_folder);
}

Backgrounds::~Backgrounds() = default;

Image Backgrounds::draw(int width, int height, std::uint64_t seed) const {
  Random random({kBackgroundStream, seed});
  Image image(width, height);
  if (!state_->photos.empty()) {
    const auto number =
        static_cast<std::size_t>(random.below(static_cast<std::int64_t>(state_->photos.size())));
    const std::shared_ptr<const Image> photo = state_->photo(number, width, height);
    const int left = static_cast<int>(random.between(0, photo->width - width));
    const int top = static_cast<int>(random.between(0, photo->height - height));
    for (int y = 0; y < height; ++y) {
      std::memcpy(image.at(0, y), photo->at(left, top + y), static_cast<std::size_t>(width) * 3);
    }
    return image;
  }
  const Colour first = muted_colour(random);
  const Ramp ramp = make_ramp(first, near_colour(first, random));
  switch (state_->plain ? 0 : random.below(5)) {
    case 0: fill(image, ramp, [](int, int) { return 0; }); break;
    case 1: fill_gradient(image, ramp, random); break;
    case 2: fill_stripes(image, ramp, random); break;
    case 3: fill_checks(image, ramp, random); break;
    default: fill_noise(image, ramp, random); break;
  }
  return image;
}

}  // namespace pocketvlm
