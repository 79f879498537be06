#include "trainer/report/html.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/base64.h"
#include "base/files.h"

namespace pocketvlm {
std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string data_address(const std::string& path, const std::string& media_type) {
  return "data:" + media_type + ";base64," + encode_base64(read_file(path));
}

std::string line_chart(const std::string& title, const std::vector<Series>& series, const std::string& x_label, int width, int height) {
  const ChartAxes axes = ChartAxes::of(series);
  if (!axes.has_points) return "";
  const auto [x0, x1, y0, y1, has_points] = axes;
  const double left = 46, right = width - 10, top = 24, bottom = height - 30;
  const auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (right - left); };
  const auto py = [&](double y) { return bottom - (y - y0) / (y1 - y0) * (bottom - top); };
  std::string svg = fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><text x=\"{}\" y=\"14\" class=\"title\">{}</text>",
      width, height, escape_html(title), left, escape_html(title));
  for (const double y : ticks(y0, y1)) {
    svg += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"end\">{:.3g}</text>",
                       left, right, py(y), py(y), left - 5, py(y) + 3.5, y);
  }
  for (const double x : ticks(x0, x1)) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"tick\" text-anchor=\"middle\">{:g}</text>", px(x), bottom + 13, x);
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"end\">{}</text>", right, height - 4, escape_html(x_label));
  double legend = left;
  for (const Series& line : series) {
    std::string points;
    for (const auto& [x, y] : line.points) points += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
    svg += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" points=\"{}\"/>", line.color, points);
    if (series.size() > 1) {
      svg += fmt::format("<text x=\"{:.0f}\" y=\"{}\" class=\"tick\" style=\"fill:{}\">{}</text>", legend, height - 4, line.color, escape_html(line.name));
      legend += 8.0 + 6.2 * static_cast<double>(line.name.size());
    }
  }
  return svg + "</svg>";
}

std::string bar_chart(const std::vector<Bar>& bars, double full) {
  double largest = full;
  for (const Bar& bar : bars) largest = std::max(largest, bar.value);
  std::string html = "<div class=\"bars\">";
  for (const Bar& bar : bars) {
    const double share = largest > 0 ? 100 * std::max(0.0, bar.value) / largest : 0;
    html += fmt::format("<span>{}</span><i><b style=\"width:{:.1f}%;background:{}\"></b></i><em>{}</em>",
                        escape_html(bar.label), share, bar.color, escape_html(bar.text));
  }
  return html + "</div>";
}

}  // namespace pocketvlm
