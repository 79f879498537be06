#include "data/ocr/ocr_effects.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <opencv2/imgproc.hpp>

namespace pocketvlm {
namespace {

constexpr double kContrast = 90;

cv::Mat view_of(Image& image) { return {image.height, image.width, CV_8UC3, image.rgb.data()}; }

}  // namespace

Projection projection_to(double width, double height, const std::array<Point, 4>& corners) {
  const std::array<Point, 4> box = {Point{0, 0}, Point{width, 0}, Point{width, height}, Point{0, height}};
  std::array<cv::Point2f, 4> from, to;
  for (std::size_t i = 0; i < 4; ++i) {
    from[i] = {static_cast<float>(box[i][0]), static_cast<float>(box[i][1])};
    to[i] = {static_cast<float>(corners[i][0]), static_cast<float>(corners[i][1])};
  }
  const cv::Mat matrix = cv::getPerspectiveTransform(from.data(), to.data());
  Projection projection;
  std::memcpy(projection.data(), matrix.ptr<double>(), sizeof(projection));
  return projection;
}

Point project(const Projection& p, const Point& point) {
  const double scale = p[6] * point[0] + p[7] * point[1] + p[8];
  return {(p[0] * point[0] + p[1] * point[1] + p[2]) / scale, (p[3] * point[0] + p[4] * point[1] + p[5]) / scale};
}

void lay_over(const std::vector<std::uint8_t>& coverage,
              int width,
              int height,
              const Projection& projection,
              const Colour& colour,
              Image& image) {
  const cv::Mat source(height, width, CV_8UC1, const_cast<std::uint8_t*>(coverage.data()));
  // OpenCV puts the centres of pixels at whole numbers, we put their corners there.
  const cv::Matx33d to_centres(1, 0, -0.5, 0, 1, -0.5, 0, 0, 1), from_centres(1, 0, 0.5, 0, 1, 0.5, 0, 0, 1);
  cv::Mat seen;
  cv::warpPerspective(source, seen, to_centres * cv::Matx33d(projection.data()) * from_centres, {image.width, image.height}, cv::INTER_LINEAR);
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* ink = seen.ptr<std::uint8_t>(y);
    for (int x = 0; x < image.width; ++x) {
      if (ink[x] == 0) continue;
      std::uint8_t* target = image.at(x, y);
      for (std::size_t c = 0; c < 3; ++c) {
        target[c] = static_cast<std::uint8_t>((target[c] * (255 - ink[x]) + colour[c] * ink[x] + 127) / 255);
      }
    }
  }
}

void use_one_opencv_thread() { cv::setNumThreads(1); }

void blur(double deviation, Image& image) {
  if (deviation < 0.1) return;  // smaller ones move no level
  cv::Mat pixels = view_of(image);
  cv::GaussianBlur(pixels, pixels, {0, 0}, deviation, deviation, cv::BORDER_REPLICATE);
}

void add_noise(double deviation, Random& random, Image& image) {
  if (deviation <= 0) return;
  // The sum of four bytes is nearly normal: mean 510, variance 4 (256^2 - 1) / 12.
  const int factor = static_cast<int>(std::lround(deviation / std::sqrt(4 * 65535 / 12.0) * 65536));
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < image.rgb.size(); ++i) {
    bits = i % 2 == 0 ? random.next() : bits >> 32;
    const int sum = static_cast<int>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24 & 255));
    const int shift = ((sum - 510) * factor + 32768) >> 16;
    image.rgb[i] = static_cast<std::uint8_t>(std::clamp(image.rgb[i] + shift, 0, 255));
  }
}

double brightness_of(const Colour& colour) { return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]; }

double brightness_below(const Image& image, const std::array<Point, 4>& corners) {
  double left = image.width, top = image.height, right = 0, bottom = 0;
  for (const Point& corner : corners) {
    left = std::min(left, corner[0]);
    right = std::max(right, corner[0]);
    top = std::min(top, corner[1]);
    bottom = std::max(bottom, corner[1]);
  }
  double sum = 0;
  std::int64_t count = 0;
  for (int y = std::max(0, static_cast<int>(top)); y < std::min<double>(image.height, bottom); ++y) {
    for (int x = std::max(0, static_cast<int>(left)); x < std::min<double>(image.width, right); ++x, ++count) {
      const std::uint8_t* pixel = image.at(x, y);
      sum += brightness_of({pixel[0], pixel[1], pixel[2]});
    }
  }
  return count == 0 ? 128 : sum / static_cast<double>(count);
}

Colour contrasting_colour(double brightness, Random& random) {
  for (int i = 0; i < 64; ++i) {
    const Colour colour = {static_cast<int>(random.below(256)), static_cast<int>(random.below(256)), static_cast<int>(random.below(256))};
    if (std::abs(brightness_of(colour) - brightness) >= kContrast) return colour;
  }
  return brightness < 128 ? Colour{255, 255, 255} : Colour{0, 0, 0};
}

}  // namespace pocketvlm
