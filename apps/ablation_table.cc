#include "apps/ablation_table.h"

#include <cmath>

#include "trainer/report/html.h"
#include "trainer/report/style.h"

namespace pocketvlm {
namespace {

constexpr const char* kNothing = "-";

std::string number(const Json& value, std::int64_t digits) {
  return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), digits) : kNothing;
}

std::string heading(const AblationMetric& metric) { return metric.unit.empty() ? metric.name : fmt::format("{} ({})", metric.name, metric.unit); }

std::string title_of(const AblationConfig& config) { return config.title.empty() ? config.name : config.title; }

bool has_paper(const Json& table, const std::string& metric) {
  for (const Json& row : table["rows"]) {
    if (row["paper"].contains(metric)) return true;
  }
  return false;
}

/// "mean", or "mean +- deviation" of several seeds.
std::string measured(const Json& row, const AblationMetric& metric, const char* plus_minus) {
  const Json& figure = row["figures"][metric.name];
  const std::string mean = number(figure["mean"], metric.digits);
  return figure["values"].size() > 1 ? mean + plus_minus + number(figure["deviation"], metric.digits) : mean;
}

std::string paper(const Json& row, const AblationMetric& metric) { return number(row["paper"].value(metric.name, Json(nullptr)), metric.digits); }

/// Headings and rows, cells in the order of the table: measured, then the paper's where there is one.
std::vector<std::vector<std::string>> cells(const AblationConfig& config, const Json& table, const char* plus_minus) {
  std::vector<std::vector<std::string>> lines = {{""}};
  for (const AblationMetric& metric : config.metrics) {
    lines[0].push_back(heading(metric));
    if (has_paper(table, metric.name)) lines[0].push_back("paper: " + heading(metric));
  }
  for (const Json& row : table["rows"]) {
    std::vector<std::string> line = {row["title"]};
    for (const AblationMetric& metric : config.metrics) {
      line.push_back(measured(row, metric, plus_minus));
      if (has_paper(table, metric.name)) line.push_back(paper(row, metric));
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string bars(const Json& table, const AblationMetric& metric, bool of_paper) {
  std::vector<Bar> list;
  for (const Json& row : table["rows"]) {
    const Json value = of_paper ? row["paper"].value(metric.name, Json(nullptr)) : row["figures"][metric.name]["mean"];
    if (!value.is_number()) continue;
    list.push_back({row["title"], value.get<double>(), number(value, metric.digits), of_paper ? "#8a94a0" : "#2e7d5b"});
  }
  return list.empty() ? "" : bar_chart(list);
}

}  // namespace

Json ablation_json(const AblationConfig& config, const AblationFigures& figures) {
  Json metrics = Json::array(), rows = Json::array();
  for (const AblationMetric& metric : config.metrics) metrics.push_back({{"name", metric.name}, {"unit", metric.unit}, {"better", metric.better}});
  for (const AblationVariant& variant : config.variants) {
    const auto found = figures.find(variant.name);
    if (found == figures.end()) continue;
    Json shown = Json::object();
    for (const AblationMetric& metric : config.metrics) {
      Json values = Json::array();
      double sum = 0.0, squares = 0.0;
      for (const auto& value : found->second.at(metric.name)) {
        if (!value) continue;
        values.push_back(*value);
        sum += *value;
      }
      const auto count = static_cast<double>(values.size());
      for (const Json& value : values) squares += std::pow(value.get<double>() - sum / count, 2.0);
      const bool none = values.empty();
      const Json mean = none ? Json(nullptr) : Json(sum / count);
      const Json deviation = none ? Json(nullptr) : Json(count > 1 ? std::sqrt(squares / (count - 1)) : 0.0);  // of the sample
      shown[metric.name] = {{"mean", mean}, {"deviation", deviation}, {"values", std::move(values)}};
    }
    rows.push_back({{"variant", variant.name},
                    {"title", variant.title.empty() ? variant.name : variant.title},
                    {"figures", shown},
                    {"paper", variant.paper}});
  }
  return {{"name", config.name}, {"title", title_of(config)}, {"metrics", metrics}, {"rows", rows}};
}

std::string ablation_markdown(const AblationConfig& config, const Json& table) {
  std::string text = fmt::format("## {}\n\n", title_of(config));
  if (!config.note.empty()) text += config.note + "\n\n";
  const auto lines = cells(config, table, " +- ");
  for (std::size_t i = 0; i < lines.size(); ++i) {
    text += fmt::format("| {} |\n", fmt::join(lines[i], " | "));
    if (i > 0) continue;
    text += "|---|";
    for (std::size_t k = 1; k < lines[0].size(); ++k) text += "---:|";
    text += "\n";
  }
  return text;
}

std::string ablation_page(const AblationConfig& config, const Json& table) {
  std::string page = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title>"
      "<style>{1}</style></head><body><main><h2>{0}</h2><p>{2}</p><div class=\"scroll\"><table>",
      escape_html(title_of(config)), kReportStyle, escape_html(config.note));
  const auto lines = cells(config, table, " \xC2\xB1 ");
  for (std::size_t i = 0; i < lines.size(); ++i) {
    page += "<tr>";
    for (std::size_t k = 0; k < lines[i].size(); ++k) {
      const std::string_view cell = i == 0 || k == 0 ? "th" : "td";
      page += fmt::format("<{0}>{1}</{0}>", cell, escape_html(lines[i][k]));
    }
    page += "</tr>";
  }
  page += "</table></div>";
  for (const AblationMetric& metric : config.metrics) {
    page += fmt::format("<h2>{}</h2><p class=\"key\">{} is better.</p><div class=\"pair\"><div><h3>measured</h3>{}</div>",
                        escape_html(heading(metric)), metric.better == "lower" ? "Lower" : "Higher", bars(table, metric, false));
    if (has_paper(table, metric.name)) page += fmt::format("<div><h3>paper</h3>{}</div>", bars(table, metric, true));
    page += "</div>";
  }
  return page + "</main></body></html>\n";
}

}  // namespace pocketvlm
