#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace pocketvlm {

/// A rectangle of an image of three bytes a pixel.
struct PixelBlock {
  const std::uint8_t* rgb;  // its first pixel
  std::ptrdiff_t stride;    // bytes from one of its lines to the next
  int width, height;
};

/// Loops in order of speed; a processor that lacks one takes the best one before it.
enum class PixelLoop { kTable, kAvx2, kAvx512 };

/// What each byte of a channel becomes: (byte / 255 - mean) / std, every step rounded to float32.
class PixelLevels {
 public:
  /// @param mean, std  of red, green, blue, in units of the whole range; no std is 0
  /// @param fastest    loop that may be taken; they give the same bits
  PixelLevels(const std::vector<double>& mean,
              const std::vector<double>& std,
              PixelLoop fastest = PixelLoop::kAvx512);

  /// [3, height, width] floats to `out`. Vectors divide again, which is less work than looking up byte by byte.
  void normalise(const PixelBlock& block, float* out) const { normalise_(*this, block, out); }

 private:
  friend struct PixelLoops;
  using Loop = void (*)(const PixelLevels& levels, const PixelBlock& block, float* out);

  /// 1 / x as a float and what that float lacks.
  struct Inverse {
    float first, rest;
  };
  static constexpr Inverse inverse_of(float x) {
    const double inverse = 1.0 / static_cast<double>(x);
    const auto first = static_cast<float>(inverse);
    return {first, static_cast<float>(inverse - static_cast<double>(first))};
  }

  struct Channel {
    std::array<float, 256> levels;
    float mean, std;
    Inverse inverse_std;
  };
  std::array<Channel, 3> channels_;
  Loop normalise_;
};

}  // namespace pocketvlm
