#pragma once

#include <string>
#include <vector>

#include "data/preprocess/image.h"
#include "trainer/report/chart_axes.h"

namespace pocketvlm {

/// A chart or a heading between charts.
struct PictureItem {
  std::string title;
  std::vector<Series> series;  // empty: a heading
};

/// Charts in rows of `columns`, below a line that names the series in their colours; headings begin a row of their own. Letters beyond ASCII
/// are drawn as '?': the font is that of OpenCV, which needs no file.
Image chart_picture(const std::vector<Series>& key, const std::vector<PictureItem>& items, int columns = 3);

}  // namespace pocketvlm
