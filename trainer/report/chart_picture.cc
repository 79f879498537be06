#include "trainer/report/chart_picture.h"

#include <fmt/format.h>

#include <cmath>
#include <opencv2/imgproc.hpp>

namespace pocketvlm {
namespace {

constexpr int kWidth = 480, kHeight = 280, kHeading = 44, kMargin = 16;  // pixels
constexpr int kLeft = 70, kRight = 16, kTop = 34, kBottom = 40;          // of a chart, around its curves
const cv::Scalar kInk(40, 40, 40), kFaint(225, 225, 225);

/// "#2e7d5b" as red, green, blue.
cv::Scalar color_of(const std::string& text) {
  const auto part = [&](std::size_t at) { return static_cast<double>(std::stoi(text.substr(at, 2), nullptr, 16)); };
  return {part(1), part(3), part(5)};
}

/// One letter a code point, '?' where the font has none.
std::string drawable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) out += c;
    else if (byte >= 0xc0) out += '?';
  }
  return out;
}

class Canvas {
 public:
  explicit Canvas(Image& image) : pixels_(image.height, image.width, CV_8UC3, image.rgb.data()) { pixels_.setTo(cv::Scalar(255, 255, 255)); }

  /// `align`: 0 begins at x, 1 ends there, 0.5 is centred. Returns the width.
  int text(const std::string& words, int x, int y, double align, double size, const cv::Scalar& color) {
    const std::string shown = drawable(words);
    int base = 0;
    const int width = cv::getTextSize(shown, cv::FONT_HERSHEY_SIMPLEX, size, 1, &base).width;
    cv::putText(pixels_, shown, {x - static_cast<int>(align * width), y}, cv::FONT_HERSHEY_SIMPLEX, size, color, 1, cv::LINE_AA);
    return width;
  }

  void chart(const PictureItem& item, int corner_x, int corner_y) {
    text(item.title, corner_x + kLeft, corner_y + 22, 0, 0.5, kInk);
    const ChartAxes axes = ChartAxes::of(item.series);
    const int left = corner_x + kLeft, right = corner_x + kWidth - kRight, top = corner_y + kTop, bottom = corner_y + kHeight - kBottom;
    const auto at = [&](double px, double py) {
      return cv::Point(left + static_cast<int>(std::lround((px - axes.x0) / (axes.x1 - axes.x0) * (right - left))),
                       bottom - static_cast<int>(std::lround((py - axes.y0) / (axes.y1 - axes.y0) * (bottom - top))));
    };
    for (const double y : ticks(axes.y0, axes.y1)) {
      const int row = at(axes.x0, y).y;
      cv::line(pixels_, {left, row}, {right, row}, kFaint, 1);
      text(fmt::format("{:.3g}", y), left - 6, row + 4, 1, 0.4, kInk);
    }
    for (const double x : ticks(axes.x0, axes.x1)) text(fmt::format("{:g}", x), at(x, axes.y0).x, bottom + 16, 0.5, 0.4, kInk);
    text("step", right, bottom + 32, 1, 0.4, kInk);
    for (const Series& line : item.series) {
      const cv::Scalar color = color_of(line.color);
      for (std::size_t i = 0; i < line.points.size(); ++i) {
        const auto& [px, py] = line.points[i];
        if (i == 0) cv::circle(pixels_, at(px, py), 2, color, cv::FILLED);
        else cv::line(pixels_, at(line.points[i - 1].first, line.points[i - 1].second), at(px, py), color, 2, cv::LINE_AA);
      }
    }
  }

  void square(int x, int y, const cv::Scalar& color) { cv::rectangle(pixels_, {x, y, 12, 12}, color, cv::FILLED); }

 private:
  cv::Mat pixels_;  // the image's own, RGB
};

struct Place {
  int x, y;
};

/// Where each item goes; the last place is where one more row would begin.
std::vector<Place> places_of(const std::vector<PictureItem>& items, int columns) {
  std::vector<Place> places;
  int y = kHeading, column = 0;
  const auto end_row = [&] {
    if (column > 0) y += kHeight;
    column = 0;
  };
  for (const PictureItem& item : items) {
    const bool heading = item.series.empty();
    if (heading || column == columns) end_row();
    places.push_back({kMargin + column * kWidth, y});
    if (heading) y += kHeading;
    else ++column;
  }
  end_row();
  places.push_back({kMargin, y});
  return places;
}

}  // namespace

Image chart_picture(const std::vector<Series>& key, const std::vector<PictureItem>& items, int columns) {
  const std::vector<Place> places = places_of(items, columns);
  Image image(2 * kMargin + columns * kWidth, places.back().y + kMargin);
  Canvas canvas(image);
  int x = kMargin;
  for (const Series& series : key) {
    canvas.square(x, 16, color_of(series.color));
    x += 18 + canvas.text(series.name, x + 18, 27, 0, 0.5, kInk) + 24;
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].series.empty()) canvas.text(items[i].title, places[i].x, places[i].y + 30, 0, 0.7, kInk);
    else canvas.chart(items[i], places[i].x, places[i].y);
  }
  return image;
}

}  // namespace pocketvlm
