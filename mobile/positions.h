#pragma once

#include <cstdint>
#include <vector>

namespace pocketvlm {

/// The tensor of a mmproj that holds the positions of the resampler's queries as the checkpoint had them (1.0, 2.0); llama.cpp's own
/// conversions write it under this name and its graph leaves it out.
inline constexpr const char* kQueryPositionsTensor = "resampler.pos_embed";

/// A learned table [side * side, hidden] resampled to [rows * columns, hidden] by antialiased
/// bicubic interpolation (a = -0.5, half-pixel centres), as MiniCPM-V 1.0 and 2.0 do. An unchanged
/// size is returned as it is.
std::vector<float> resample_positions_antialiased(const std::vector<float>& table,
                                                  std::int64_t side,
                                                  std::int64_t hidden,
                                                  std::int64_t rows,
                                                  std::int64_t columns);

/// The same without antialiasing (a = -0.75, edges repeated): the keys of the 1.0 resampler.
std::vector<float> resample_positions(const std::vector<float>& table,
                                      std::int64_t side,
                                      std::int64_t hidden,
                                      std::int64_t rows,
                                      std::int64_t columns);

/// 2-D sin-cos positions [rows * columns, hidden]: the first half of the channels encodes the
/// column, the second the row; each half is sines then cosines of position * 10000^(-i / (hidden /
/// 4)).
std::vector<float> sincos_table(std::int64_t rows, std::int64_t columns, std::int64_t hidden);

}  // namespace pocketvlm
