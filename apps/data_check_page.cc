#include "apps/data_check_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "trainer/report/html.h"
#include "trainer/report/style.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMostShown = 200;  // damaged samples on the page; --json lists more

/// Columns over lengths from 0 to the longest, about forty of them.
std::string histogram(const std::vector<std::int32_t>& lengths) {
  const std::int32_t longest = *std::max_element(lengths.begin(), lengths.end());
  const std::int32_t width = std::max(1, (longest + 39) / 40);
  std::vector<std::int64_t> columns(static_cast<std::size_t>(longest / width + 1), 0);
  for (const std::int32_t length : lengths) ++columns[static_cast<std::size_t>(length / width)];
  const auto highest = static_cast<double>(*std::max_element(columns.begin(), columns.end()));
  const double left = 60, right = 800, top = 20, bottom = 240, step = (right - left) / static_cast<double>(columns.size());
  std::string svg = fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 820 280\" role=\"img\" aria-label=\"Samples by number of tokens\">"
      "<text x=\"{}\" y=\"14\" class=\"title\">Samples by number of tokens</text>",
      left);
  for (const double part : {0.25, 0.5, 0.75, 1.0}) {
    const double y = bottom - part * (bottom - top);
    svg += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1f}\" "
                       "class=\"tick\" text-anchor=\"end\">{:.0f}</text>",
                       left, right, y, y, left - 6, y + 3.5, part * highest);
  }
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const double height = static_cast<double>(columns[i]) / highest * (bottom - top), x = left + step * static_cast<double>(i);
    const std::int64_t first = static_cast<std::int64_t>(i) * width;
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#2e7d5b\"><title>{} to {} tokens: "
                       "{}</title></rect>",
                       x, bottom - height, std::max(1.0, step - 1), height, first, first + width - 1, columns[i]);
    if (i % 8 == 0) svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"tick\">{}</text>", x, bottom + 14, first);
  }
  return svg + fmt::format("<text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"end\">tokens</text></svg>", right, bottom + 30);
}

}  // namespace

std::string data_check_page(const std::string& path, const DataCheckReport& report) {
  std::string page = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
      "<title>Data check</title><style>{}</style></head><body><main><h2>{}</h2><p>{} samples, {} kept, {} skipped, {} pictures; "
      "{} ids appear more than once.</p>",
      kReportStyle,
      escape_html(path),
      report.samples,
      report.kept,
      report.skipped(),
      report.images,
      report.duplicate_ids);
  if (!report.tokens.empty()) {
    const Json figures = length_figures(report.tokens);
    page += histogram(report.tokens) +
            fmt::format("<p>{} tokens in all; mean {:.0f}, median {}, 95 % up to {}, 99 % up to {}, longest {}.</p>",
                        figures["sum"].get<std::int64_t>(),
                        figures["mean"].get<double>(),
                        figures["median"].get<std::int64_t>(),
                        figures["p95"].get<std::int64_t>(),
                        figures["p99"].get<std::int64_t>(),
                        figures["longest"].get<std::int64_t>());
  }
  if (!report.reasons.empty()) {
    std::vector<Bar> bars;
    for (const auto& [reason, count] : report.reasons) {
      bars.push_back({reason, static_cast<double>(count), std::to_string(count), "#c0392b"});
    }
    page += "<h2>Skipped</h2>" + bar_chart(bars) + "<div class=\"scroll\"><table><tr><th>place</th><th>reason</th></tr>";
    for (std::size_t i = 0; i < std::min(kMostShown, report.listed.size()); ++i) {
      const auto& item = report.listed[i];
      page += fmt::format("<tr><th>{}: {}</th><td>{}</td></tr>",
                          escape_html(item.file),
                          escape_html(item.place),
                          escape_html(item.reason + ": " + item.detail));
    }
    page += "</table></div>";
  }
  return page + "</main></body></html>\n";
}

}  // namespace pocketvlm
