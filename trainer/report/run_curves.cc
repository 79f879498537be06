#include "trainer/report/run_curves.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "trainer/report/chart_picture.h"
#include "trainer/report/html.h"
#include "trainer/report/style.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 8> kColors = {
    "#2e7d5b", "#c0392b", "#2471a3", "#b7791f", "#7d3c98", "#16837a", "#a04000", "#566573"};

/// Series of each number, by its name.
using Curves = std::map<std::string, std::vector<std::pair<double, double>>>;

Curves read_metrics(const std::string& path) {
  Curves curves;
  std::istringstream text(read_file(path));
  int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    const std::string where = fmt::format("{}:{}", path, ++number);
    const Json json = parse_json(line, where);
    PV_CHECK(json.is_object() && json.contains("step") && json["step"].is_number(), "{}: no number \"step\"", where);
    const double step = json["step"].get<double>();
    for (const auto& item : json.items()) {
      if (item.key() != "step" && item.value().is_number()) curves[item.key()].emplace_back(step, item.value().get<double>());
    }
  }
  return curves;
}

/// metrics.jsonl files below a run, by the folder they are in relative to it.
std::map<std::string, Curves> read_run(const std::string& folder) {
  PV_CHECK(fs::is_directory(folder), "{}: no such folder; name a run, e.g. runs/quickstart", folder);
  std::map<std::string, Curves> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().filename() != "metrics.jsonl") continue;
    const std::string place = fs::relative(entry.path().parent_path(), folder).string();
    files[place == "." ? "" : place] = read_metrics(entry.path().string());
  }
  return files;
}

std::string run_name(const std::string& folder) {
  const fs::path path = fs::path(folder).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

}  // namespace

RunCurves RunCurves::read(const std::vector<std::string>& folders) {
  RunCurves found;
  for (std::size_t r = 0; r < folders.size(); ++r) {
    const Series run = {run_name(folders[r]), kColors[r % kColors.size()], {}};
    found.runs.push_back(run);
    for (auto& [place, curves] : read_run(folders[r])) {
      for (auto& [number, points] : curves) found.charts[place][number].push_back({run.name, run.color, std::move(points)});
    }
  }
  PV_CHECK(!found.charts.empty(), "{}: no metrics.jsonl in it or below", folders.front());
  return found;
}

std::string RunCurves::page() const {
  std::string key;
  for (const Series& run : runs) key += fmt::format("<i style=\"background:{}\"></i>{}", run.color, escape_html(run.name));
  std::string page = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
      "<title>Curves</title><style>{}</style></head><body><main><h2>Curves</h2><p class=\"key\">{}</p>",
      kReportStyle,
      key);
  for (const auto& [place, numbers] : charts) {
    if (!place.empty()) page += fmt::format("<h2>{}</h2>", escape_html(place));
    page += "<div class=\"stages\">";
    for (const auto& [number, series] : numbers) {
      page += "<div class=\"stage\">" + line_chart(number, series, "step") + "</div>";
    }
    page += "</div>";
  }
  return page + "</main></body></html>\n";
}

Image RunCurves::picture() const {
  std::vector<PictureItem> items;
  for (const auto& [place, numbers] : charts) {
    if (!place.empty()) items.push_back({place, {}});
    for (const auto& [number, series] : numbers) items.push_back({number, series});
  }
  return chart_picture(runs, items);
}

}  // namespace pocketvlm
