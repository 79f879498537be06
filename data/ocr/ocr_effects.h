#pragma once

#include <array>

#include "base/random.h"
#include "data/ocr/ocr_painter.h"

namespace pocketvlm {

using Colour = std::array<int, 3>;

/// A plane projection: (x, y) -> (x', y'), by its 3 x 3 matrix.
using Projection = std::array<double, 9>;

/// The projection that takes the corners of a box of width x height, from the top left clockwise, to `corners`.
Projection projection_to(double width, double height, const std::array<Point, 4>& corners);
Point project(const Projection& projection, const Point& point);

/// Lays `coverage` ([height, width], 255 is ink), seen through the projection, over the picture in one colour.
void lay_over(const std::vector<std::uint8_t>& coverage,
              int width,
              int height,
              const Projection& projection,
              const Colour& colour,
              Image& image);

/// Keeps OpenCV from starting threads of its own beside ours.
void use_one_opencv_thread();

/// Gaussian blur and noise, in place. Deviations in pixels and in levels of 255; 0: none.
void blur(double deviation, Image& image);
void add_noise(double deviation, Random& random, Image& image);

/// Mean brightness (0 to 255) of the picture in the box around the corners.
double brightness_below(const Image& image, const std::array<Point, 4>& corners);

/// A colour whose brightness differs from `brightness` by at least 90 levels.
Colour contrasting_colour(double brightness, Random& random);
double brightness_of(const Colour& colour);

}  // namespace pocketvlm
