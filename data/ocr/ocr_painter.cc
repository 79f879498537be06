#include "data/ocr/ocr_painter.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>

#include "base/random.h"
#include "data/ocr/ocr_effects.h"
#include "data/scenes/backgrounds.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kOcrStream = 0x6f6372;
constexpr double kRoom = 0.92;  // part of a picture's side that text may take

struct InkBox {
  int left, top, width, height;
};

/// Lines under each other in one grey picture, before it is turned.
struct Block {
  int width = 0, height = 0;
  std::vector<std::uint8_t> coverage;
  std::vector<InkBox> boxes;
};

using Corners = std::array<Point, 4>;

std::vector<std::uint8_t> full(int width, int height) {
  return std::vector<std::uint8_t>(static_cast<std::size_t>(width) * static_cast<std::size_t>(height), 255);
}

/// Turns a box around its centre and shifts its corners at random.
Corners turned_box(double width, double height, const OcrConfig& config, Random& random) {
  const double angle = random.uniform(-config.max_rotation, config.max_rotation) * std::numbers::pi / 180;
  const double shift = config.perspective * std::min(width, height);
  Corners corners = {Point{-width / 2, -height / 2}, {width / 2, -height / 2}, {width / 2, height / 2}, {-width / 2, height / 2}};
  for (Point& corner : corners) {
    corner = {corner[0] + random.uniform(-shift, shift), corner[1] + random.uniform(-shift, shift)};
    corner = {corner[0] * std::cos(angle) - corner[1] * std::sin(angle), corner[0] * std::sin(angle) + corner[1] * std::cos(angle)};
  }
  return corners;
}

struct Bounds {
  double left, top, right, bottom;
};

Bounds bounds_of(const Corners& corners) {
  Bounds bounds{1e30, 1e30, -1e30, -1e30};
  for (const Point& corner : corners) {
    bounds = {std::min(bounds.left, corner[0]), std::min(bounds.top, corner[1]), std::max(bounds.right, corner[0]), std::max(bounds.bottom, corner[1])};
  }
  return bounds;
}

}  // namespace

struct OcrPainter::State {
  State(OcrConfig wanted, std::uint64_t stream)
      : config(std::move(wanted)),
        seed(stream),
        fonts(config.fonts, text_of(config)),
        text(read_text_lines(config, fonts)),
        backgrounds(config.photo_folder.empty() ? "procedural" : "photos", config.photo_folder) {
    use_one_opencv_thread();
  }

  OcrConfig config;
  std::uint64_t seed;
  FontCollection fonts;
  TextLines text;
  Backgrounds backgrounds;

  std::mutex mutex;
  std::vector<std::unique_ptr<LetterPainter>> idle;  // one a thread at most

  std::unique_ptr<LetterPainter> take_painter() {
    {
      const std::lock_guard lock(mutex);
      if (!idle.empty()) {
        auto painter = std::move(idle.back());
        idle.pop_back();
        return painter;
      }
    }
    return std::make_unique<LetterPainter>(fonts);
  }
  void give_back(std::unique_ptr<LetterPainter> painter) {
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(painter));
  }

  Block block_of(LetterPainter& painter, const std::vector<const TextLine*>& lines, const std::vector<int>& faces, int pixels) const;
};

Block OcrPainter::State::block_of(LetterPainter& painter, const std::vector<const TextLine*>& lines, const std::vector<int>& faces, int pixels) const {
  Block block;
  std::vector<DrawnLine> drawn;
  const int gap = std::max(2, pixels / 3), margin = std::max(2, pixels / 4);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    drawn.push_back(painter.draw(faces[i], pixels, lines[i]->letters));
    block.width = std::max(block.width, drawn.back().width + 2 * margin);
    block.boxes.push_back({margin, (i == 0 ? margin : block.height + gap), drawn.back().width, drawn.back().height});
    block.height = block.boxes.back().top + drawn.back().height;
  }
  block.height += margin;
  block.coverage.assign(static_cast<std::size_t>(block.width) * static_cast<std::size_t>(block.height), 0);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    for (int row = 0; row < drawn[i].height; ++row) {
      std::copy_n(drawn[i].coverage.begin() + static_cast<std::ptrdiff_t>(row) * drawn[i].width,
                  drawn[i].width,
                  block.coverage.begin() + static_cast<std::ptrdiff_t>(block.boxes[i].top + row) * block.width + block.boxes[i].left);
    }
  }
  return block;
}

OcrPainter::OcrPainter(OcrConfig config, std::uint64_t seed) : state_(std::make_unique<State>(std::move(config), seed)) {}
OcrPainter::~OcrPainter() = default;

const OcrConfig& OcrPainter::config() const { return state_->config; }
const TextLines& OcrPainter::text() const { return state_->text; }
const FontCollection& OcrPainter::fonts() const { return state_->fonts; }

OcrPicture OcrPainter::draw(std::int64_t index) const {
  const OcrConfig& config = state_->config;
  Random random({kOcrStream, state_->seed, static_cast<std::uint64_t>(index)});
  const auto& all = state_->text.lines;
  int width = static_cast<int>(random.between(config.min_side, config.max_side));
  int height = static_cast<int>(random.between(config.min_side, config.max_side));
  const auto first = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(all.size())));
  const auto count = std::min(static_cast<std::size_t>(random.between(1, config.max_lines)), all.size() - first);
  std::vector<const TextLine*> lines;
  for (std::size_t i = 0; i < count; ++i) lines.push_back(&all[first + i]);

  std::unique_ptr<LetterPainter> painter = state_->take_painter();
  const auto smallest = static_cast<int>(config.min_font_pixels);
  int pixels = static_cast<int>(random.between(config.min_font_pixels, config.max_font_pixels));
  std::vector<int> faces;
  for (const TextLine* line : lines) faces.push_back(random.pick(state_->fonts.faces_for(line->letters)));
  Block block = state_->block_of(*painter, lines, faces, pixels);
  // Large letters of a long line become smaller, then lines fewer, and at last the picture larger.
  const auto excess = [&] { return std::max(block.width / (kRoom * width), block.height / (kRoom * height)); };
  while (excess() > 1 && (pixels > smallest || lines.size() > 1)) {
    if (pixels > smallest) {
      pixels = std::max(smallest, std::min(pixels - 1, static_cast<int>(pixels / excess())));
    } else {
      lines.pop_back();
    }
    block = state_->block_of(*painter, lines, faces, pixels);
  }
  state_->give_back(std::move(painter));

  Corners corners = turned_box(block.width, block.height, config, random);
  const Bounds bounds = bounds_of(corners);
  width = std::max(width, static_cast<int>(std::ceil(bounds.right - bounds.left)) + 2);
  height = std::max(height, static_cast<int>(std::ceil(bounds.bottom - bounds.top)) + 2);
  const double x = random.uniform(1, width - 1 - (bounds.right - bounds.left)) - bounds.left;
  const double y = random.uniform(1, height - 1 - (bounds.bottom - bounds.top)) - bounds.top;
  for (Point& corner : corners) corner = {corner[0] + x, corner[1] + y};
  const Projection projection = projection_to(block.width, block.height, corners);

  OcrPicture picture;
  picture.image = state_->backgrounds.draw(width, height, random.next());
  double below = brightness_below(picture.image, corners);
  if (random.chance(config.board_probability)) {
    const Colour board = {static_cast<int>(random.below(256)), static_cast<int>(random.below(256)), static_cast<int>(random.below(256))};
    lay_over(full(block.width, block.height), block.width, block.height, projection, board, picture.image);
    below = brightness_of(board);
  }
  lay_over(block.coverage, block.width, block.height, projection, contrasting_colour(below, random), picture.image);
  blur(random.uniform(0, config.max_blur), picture.image);
  add_noise(random.uniform(0, config.max_noise), random, picture.image);
  picture.jpeg_quality = static_cast<int>(random.between(config.min_jpeg_quality, config.max_jpeg_quality));

  for (std::size_t i = 0; i < lines.size(); ++i) {
    const InkBox& box = block.boxes[i];
    const double left = box.left, top = box.top, right = box.left + box.width, bottom = box.top + box.height;
    picture.lines.push_back({utf8_of(lines[i]->letters),
                             {project(projection, {left, top}), project(projection, {right, top}), project(projection, {right, bottom}), project(projection, {left, bottom})},
                             state_->fonts.faces()[static_cast<std::size_t>(faces[i])].name,
                             pixels});
  }
  return picture;
}

}  // namespace pocketvlm
