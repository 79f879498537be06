#include "data/preprocess/resize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "data/preprocess/resize_rows.h"

namespace pocketvlm {
namespace {

// Longer sides are only found in hostile files: their weights alone would take 16 bytes a pixel.
constexpr int kMaxSide = 1 << 24;

/// Keys' cubic convolution kernel with a = -0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

/// Weights of the output places start .. start + size - 1 when `input` becomes `output` places.
/// The order of the double operations decides the last bit of a weight: it follows Pillow's.
ResizeWeights make_weights(int input, std::int64_t output, std::int64_t start, int size) {
  const double scale = static_cast<double>(input) / static_cast<double>(output);
  const double stretch = std::max(scale, 1.0);  // shrinking widens the kernel: antialiasing
  const double support = 2.0 * stretch;
  const double per_stretch = 1.0 / stretch;
  ResizeWeights weights;
  weights.taps = (std::min(static_cast<int>(std::ceil(support)) * 2 + 1, input) + 1) / 2 * 2;
  weights.span.resize(size);
  weights.fixed.assign(static_cast<std::size_t>(size) * weights.taps, 0);
  std::vector<double> values(weights.taps);
  for (int place = 0; place < size; ++place) {
    const double center = (static_cast<double>(start + place) + 0.5) * scale;
    const int first = static_cast<int>(std::max(center - support + 0.5, 0.0));
    const int count = std::min(static_cast<int>(center + support + 0.5), input) - first;
    double sum = 0.0;
    for (int i = 0; i < count; ++i) {
      values[i] = cubic((i + first - center + 0.5) * per_stretch);
      sum += values[i];
    }
    std::int32_t* fixed = &weights.fixed[static_cast<std::size_t>(place) * weights.taps];
    for (int i = 0; i < count; ++i) {
      const double value = (sum != 0.0 ? values[i] / sum : values[i]) * (1 << kWeightBits);
      fixed[i] = static_cast<std::int32_t>(value < 0 ? value - 0.5 : value + 0.5);
    }
    weights.span[place] = {first, count};
  }
  return weights;
}

/// What is resized: an image at (left, top) on a canvas of one colour, which is never stored whole.
struct Canvas {
  const Image& image;
  int width;
  int height;
  int left = 0;
  int top = 0;
  std::array<std::uint8_t, 3> color{};
};

/// Weights for the columns left .. left + size - 1. What the colour beside the image adds to a sum
/// is the same in every row: it is summed here, once, and only the weights on the image are kept.
ResizeWeights column_weights(const Canvas& canvas,
                             std::int64_t full_width,
                             std::int64_t left,
                             int size) {
  ResizeWeights weights = make_weights(canvas.width, full_width, left, size);
  weights.start.assign(size, {kWeightHalf, kWeightHalf, kWeightHalf, 0});
  for (int x = 0; x < size; ++x) {
    auto& [first, count] = weights.span[x];
    std::int32_t* fixed = &weights.fixed[static_cast<std::size_t>(x) * weights.taps];
    const int begin = std::clamp(canvas.left - first, 0, count);
    const int end = std::clamp(canvas.left + canvas.image.width - first, begin, count);
    for (int c = 0; c < 3; ++c) {
      for (int i = 0; i < count; ++i) {
        if (i < begin || i >= end) weights.start[x][c] += fixed[i] * canvas.color[c];
      }
    }
    std::copy(fixed + begin, fixed + end, fixed);
    std::fill(fixed + (end - begin), fixed + count, 0);
    first = std::clamp(first + begin - canvas.left, 0, canvas.image.width);
    count = end - begin;
  }
  return weights;
}

/// Gives the rows of a canvas, brought to another width, one at a time.
class WidthPass {
 public:
  WidthPass(const Canvas& canvas, std::int64_t full_width, std::int64_t left, int width)
      : canvas_(canvas),
        is_needed_(full_width != canvas.width),
        left_(static_cast<int>(is_needed_ ? 0 : left)),
        width_(width) {
    for (int x = 0; x < width; ++x) {
      plain_.insert(plain_.end(), canvas.color.begin(), canvas.color.end());
    }
    if (!is_needed_) return;
    weights_ = column_weights(canvas, full_width, left, width);
    // Four bytes a pixel; an odd number of taps reads one pixel more.
    rgbx_.assign((static_cast<std::size_t>(canvas.image.width) + 1) * 4, 0);
    if (canvas.height == canvas.image.height) return;  // no row without the image
    for (int x = 0; x < canvas.image.width; ++x) std::copy_n(canvas.color.data(), 3, &rgbx_[4 * x]);
    resize_rows().horizontal(rgbx_.data(), weights_, plain_.data());
  }

  /// Row y of the canvas: in `room`, or the row of the colour alone above and below the image.
  const std::uint8_t* row(int y, std::uint8_t* room) {
    const int image_y = y - canvas_.top;
    if (image_y < 0 || image_y >= canvas_.image.height) return plain_.data();
    if (is_needed_) {
      const std::uint8_t* rgb = canvas_.image.at(0, image_y);
      std::uint8_t* to = rgbx_.data();
      for (int x = 0; x < canvas_.image.width; ++x, rgb += 3, to += 4) std::memcpy(to, rgb, 3);
      resize_rows().horizontal(rgbx_.data(), weights_, room);
      return room;
    }
    std::memcpy(room, plain_.data(), plain_.size());
    const int begin = std::max(canvas_.left, left_);
    const int end = std::min(canvas_.left + canvas_.image.width, left_ + width_);
    if (begin < end) {
      std::memcpy(room + 3 * static_cast<std::size_t>(begin - left_),
                  canvas_.image.at(begin - canvas_.left, image_y),
                  3 * static_cast<std::size_t>(end - begin));
    }
    return room;
  }

 private:
  const Canvas& canvas_;
  bool is_needed_;
  int left_;
  int width_;
  ResizeWeights weights_;
  std::vector<std::uint8_t> plain_;  // a row beside the image
  std::vector<std::uint8_t> rgbx_;
};

/// Part of the canvas brought to full_width x full_height.
struct Window {
  std::int64_t full_width;
  std::int64_t full_height;
  std::int64_t left;
  std::int64_t top;
  int width;
  int height;
};

Image resize(const Canvas& canvas, const Window& window) {
  PV_CHECK(
      canvas.image.width > 0 && canvas.image.height > 0 && window.width > 0 && window.height > 0,
      "cannot resize an image of {} x {} pixels to {} x {}",
      canvas.image.width,
      canvas.image.height,
      window.full_width,
      window.full_height);
  const int longest = std::max({canvas.width, canvas.height, window.width, window.height});
  PV_CHECK(longest <= kMaxSide,
           "cannot resize an image of {} x {} pixels to {} x {}: no side may exceed {}; cut the "
           "image into parts",
           canvas.image.width,
           canvas.image.height,
           window.full_width,
           window.full_height,
           kMaxSide);
  Image out(window.width, window.height);
  WidthPass columns(canvas, window.full_width, window.left, window.width);
  const std::size_t row_bytes = static_cast<std::size_t>(window.width) * 3;
  if (window.full_height == canvas.height) {
    for (int y = 0; y < window.height; ++y) {
      const std::uint8_t* row = columns.row(static_cast<int>(window.top) + y, out.at(0, y));
      if (row != out.at(0, y)) std::memcpy(out.at(0, y), row, row_bytes);
    }
    return out;
  }
  // Only the rows under the kernel are kept: they stay in the cache between the two passes.
  const ResizeWeights weights =
      make_weights(canvas.height, window.full_height, window.top, window.height);
  std::vector<std::uint8_t> ring(row_bytes * weights.taps);
  std::vector<const std::uint8_t*> kept(weights.taps);  // row y at place y % taps
  std::vector<const std::uint8_t*> rows(weights.taps);
  int next_row = 0;
  for (int y = 0; y < window.height; ++y) {
    const auto [first, count] = weights.span[y];
    next_row = std::max(next_row, first);
    for (; next_row < first + count; ++next_row) {
      const std::size_t place = next_row % weights.taps;
      kept[place] = columns.row(next_row, &ring[row_bytes * place]);
    }
    for (int i = 0; i < count; ++i) rows[i] = kept[(first + i) % weights.taps];
    resize_rows().vertical(
        rows.data(), weights.of(y), count, static_cast<int>(row_bytes), out.at(0, y));
  }
  return out;
}

}  // namespace

Image resize_bicubic(const Image& image, int width, int height) {
  if (width == image.width && height == image.height && width > 0 && height > 0) return image;
  return resize({image, image.width, image.height}, {width, height, 0, 0, width, height});
}

Image resize_short_side_and_crop(const Image& image, int side) {
  const std::int64_t short_side = std::max(std::min(image.width, image.height), 1);
  const std::int64_t width = std::int64_t{side} * image.width / short_side;
  const std::int64_t height = std::int64_t{side} * image.height / short_side;
  return resize({image, image.width, image.height},
                {width, height, (width - side) / 2, (height - side) / 2, side, side});
}

Image pad_square_and_resize(const Image& image, std::array<std::uint8_t, 3> color, int side) {
  const int length = std::max(image.width, image.height);
  const Canvas canvas{
      image, length, length, (length - image.width) / 2, (length - image.height) / 2, color};
  return resize(canvas, {side, side, 0, 0, side, side});
}

}  // namespace pocketvlm
