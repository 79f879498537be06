#include "trainer/report/report.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "trainer/report/html.h"
#include "trainer/report/style.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTrainable = "#e4572e";
constexpr const char* kFrozen = "#8fb3c9";
constexpr const char* kBefore = "#c9a227";
constexpr const char* kAfter = "#2e7d5b";
constexpr const char* kLine = "#2f5d8a";

double number(const Json& json, const char* key, double fallback = 0.0) {
  return json.is_object() && json.contains(key) && json[key].is_number() ? json[key].get<double>() : fallback;
}

std::string text_of(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : std::string();
}

std::string percent(double value) { return fmt::format("{:.1f} %", 100 * value); }

std::string count(double value) {
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f} M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.0f} k", value / 1e3);
  return fmt::format("{:.0f}", value);
}

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  return s >= 60 ? fmt::format("{} min {:02} s", s / 60, s % 60) : fmt::format("{} s", s);
}

std::vector<Json> read_lines(const fs::path& path) {
  std::vector<Json> rows;
  if (!fs::exists(path)) return rows;
  std::istringstream lines(read_file(path.string()));
  std::string line;
  for (std::int64_t n = 1; std::getline(lines, line); ++n) {
    if (!line.empty()) rows.push_back(parse_json(line, fmt::format("{}:{}", path.string(), n)));
  }
  return rows;
}

Series series_of(const std::vector<Json>& rows, const char* key, const std::string& name, const char* color) {
  Series series{name, color, {}};
  for (const Json& row : rows) {
    if (row.contains(key) && row[key].is_number()) series.points.emplace_back(number(row, "step"), row[key].get<double>());
  }
  return series;
}

class Report {
 public:
  explicit Report(fs::path folder) : folder_(std::move(folder)), summary_(read_json((folder_ / "summary.json").string())) {}

  std::string html() {
    std::string page = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
        "<title>{0} - pocketvlm</title><style>{1}</style></head><body><header><h1>{0}</h1>{2}</header><main>",
        escape_html(text_of(summary_, "name")), kReportStyle, headline());
    page += stages() + hallucination() + gallery() + pairs() + phone();
    return page + "</main><footer>Every figure of this page is in <code>summary.json</code> beside it.</footer></body></html>\n";
  }

 private:
  /// The figures a reader wants first.
  std::string headline() const {
    std::string cards;
    const auto card = [&](const std::string& value, const std::string& label) {
      cards += fmt::format("<div class=\"card\"><b>{}</b><span>{}</span></div>", escape_html(value), escape_html(label));
    };
    card(count(number(summary_.value("parameters", Json::object()), "total")), "parameters");
    card(duration(number(summary_, "seconds")), fmt::format("for the whole run on {:.0f} cores", number(summary_, "threads")));
    const Json& evaluation = summary_["evaluation"];
    if (!evaluation.empty()) {
      const Json& last = evaluation.back();
      card(percent(number(last, "object_recall")), "of the objects are named");
      card(percent(number(last, "chair_i")), "of the named objects are not there");
    }
    if (summary_.contains("exports") && !summary_["exports"].empty()) {
      double smallest = 1e300;
      for (const Json& file : summary_["exports"]) {
        smallest = std::min(smallest, number(file, "language_bytes") + number(file, "mmproj_bytes"));
      }
      card(fmt::format("{:.1f} MB", smallest / 1e6), "smallest pair of files for the phone");
    }
    card(fmt::format("{:.0f} MiB", number(summary_, "peak_rss_mib")), "peak memory");
    return "<div class=\"cards\">" + cards + "</div>";
  }

  std::vector<fs::path> stage_folders() const {
    std::vector<fs::path> folders;
    if (!fs::exists(folder_ / "stages")) return folders;
    for (const auto& entry : fs::directory_iterator(folder_ / "stages")) folders.push_back(entry.path());
    std::sort(folders.begin(), folders.end());
    return folders;
  }

  /// What learned and what was frozen in each stage, with its loss.
  std::string stages() const {
    std::string boxes;
    const std::vector<fs::path> folders = stage_folders();
    for (std::size_t i = 0; i < summary_["stages"].size(); ++i) {
      const Json& stage = summary_["stages"][i];
      std::string rows;
      for (const Json& component : stage.value("components", Json::array())) {
        const double all = number(component, "parameters"), learning = number(component, "trainable_parameters");
        const char* color = learning > 0 ? kTrainable : kFrozen;
        const std::string what =
            learning > 0 ? fmt::format("learns: {} of {} parameters, {:.0f} tensors", count(learning), count(all),
                                       number(component, "trainable_tensors"))
                         : fmt::format("frozen, same bits afterwards: {} parameters, {:.0f} tensors", count(all),
                                       number(component, "tensors"));
        rows += fmt::format("<div class=\"component\" style=\"background:{}\"><b>{}</b><span>{}</span></div>", color,
                            escape_html(text_of(component, "component")), what);
      }
      const std::string chart =
          i < folders.size() ? line_chart("loss", {series_of(read_lines(folders[i] / "metrics.jsonl"), "loss", "loss", kLine)}, "step") : "";
      boxes += fmt::format(
          "<article class=\"stage\"><h3>{}. {}</h3><p>{:.0f} steps in {} &middot; {} tokens/s &middot; {:.0f} pictures/s</p>{}{}"
          "<p>loss {:.3f} &rarr; {:.3f}</p></article>",
          i + 1, escape_html(text_of(stage, "name")), number(stage, "steps"), duration(number(stage, "seconds")),
          count(number(stage, "tokens_per_s")), number(stage, "images_per_s"), rows, chart, number(stage, "first_loss"), number(stage, "final_loss"));
    }
    return fmt::format(
        "<section><h2>The way of the model</h2><p class=\"key\"><i style=\"background:{}\"></i>learns <i style=\"background:{}\"></i>frozen</p>"
        "<div class=\"stages\">{}</div></section>", kTrainable, kFrozen, boxes);
  }

  std::string hallucination() const {
    const Json& evaluation = summary_["evaluation"];
    if (evaluation.empty()) return "";
    std::string head = "<tr><th>after</th><th>objects named (recall)</th><th>invented objects (CHAIR<sub>i</sub>)</th><th>answers with one (CHAIR<sub>s</sub>)</th>"
                       "<th>yes/no right: random</th><th>popular</th><th>adversarial</th><th>words an answer</th></tr>";
    std::string rows;
    std::vector<Bar> invented, named;
    for (auto item = evaluation.begin(); item != evaluation.end(); ++item) {
      const Json& figures = *item;
      const Json pope = figures.value("pope", Json::object());
      const auto accuracy = [&](const char* kind) { return percent(number(pope.value(kind, Json::object()), "accuracy")); };
      rows += fmt::format("<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td></tr>",
                          escape_html(item.key()), percent(number(figures, "object_recall")), percent(number(figures, "chair_i")),
                          percent(number(figures, "chair_s")), accuracy("random"), accuracy("popular"), accuracy("adversarial"),
                          number(figures, "mean_answer_words"));
      const char* color = item.key() == "aligned" ? kAfter : kBefore;
      invented.push_back({item.key(), number(figures, "chair_i"), percent(number(figures, "chair_i")), color});
      named.push_back({item.key(), number(figures, "object_recall"), percent(number(figures, "object_recall")), color});
    }
    std::string charts = "<div class=\"pair\"><div><h3>invented objects</h3>" + bar_chart(invented) +
                         "</div><div><h3>objects named</h3>" + bar_chart(named, 1.0) + "</div></div>";
    const std::vector<Json> steps = read_lines(folder_ / "alignment" / "metrics.jsonl");
    if (!steps.empty()) {
      charts += "<div class=\"pair\">" + line_chart("DPO loss", {series_of(steps, "loss", "loss", kLine)}, "step") +
                line_chart("rewards", {series_of(steps, "rewards/chosen", "chosen", kAfter), series_of(steps, "rewards/rejected", "rejected", kTrainable)}, "step") +
                "</div>";
    }
    return "<section><h2>What it sees, and what it invents</h2>" + charts + "<div class=\"scroll\"><table>" + head + rows + "</table></div></section>";
  }

  /// The stages in order, then the aligned model, then the phone.
  std::vector<std::string> answer_columns() const {
    std::vector<std::string> names;
    for (const Json& stage : summary_["stages"]) names.push_back(text_of(stage, "name"));
    names.emplace_back("aligned");
    if (summary_.contains("exports")) {
      for (const Json& file : summary_["exports"]) names.push_back("phone-" + text_of(file, "type"));
    }
    std::erase_if(names, [&](const std::string& name) { return !fs::exists(folder_ / "gallery" / (name + ".json")); });
    return names;
  }

  /// The answer with every class name coloured: in the picture, or not.
  std::string coloured(const std::string& answer, const std::set<std::string>& present, const std::set<std::string>& known) const {
    std::string html, word;
    const auto flush = [&] {
      if (word.empty()) return;
      std::string lower = word;
      std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      std::string singular = lower;
      if (!known.count(lower) && lower.size() > 1 && lower.back() == 's') singular.pop_back();
      if (present.count(singular)) html += "<u class=\"yes\">" + escape_html(word) + "</u>";
      else if (known.count(singular)) html += "<u class=\"no\">" + escape_html(word) + "</u>";
      else html += escape_html(word);
      word.clear();
    };
    for (const char c : answer) {
      if (std::isalpha(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80) {
        word += c;
      } else {
        flush();
        html += escape_html(std::string_view(&c, 1));
      }
    }
    flush();
    return html;
  }

  std::string gallery() const {
    const std::vector<std::string> columns = answer_columns();
    if (columns.empty()) return "";
    std::map<std::string, Json> answers;
    std::set<std::string> known;
    for (const std::string& name : columns) {
      answers[name] = read_json((folder_ / "gallery" / (name + ".json")).string());
      for (const Json& item : answers[name]) {
        for (const Json& object : item["objects"]) known.insert(object.get<std::string>());
      }
    }
    std::string items;
    for (std::size_t i = 0; i < answers[columns.front()].size(); ++i) {
      const Json& first = answers[columns.front()][i];
      const fs::path image = folder_ / "gallery" / "images" / (text_of(first, "id") + ".png");
      std::set<std::string> present;
      std::string truth;
      for (const Json& object : first["objects"]) {
        present.insert(object.get<std::string>());
        truth += (truth.empty() ? "" : ", ") + object.get<std::string>();
      }
      std::string rows;
      for (const std::string& name : columns) {
        if (i >= answers[name].size()) continue;
        rows += fmt::format("<dt>{}</dt><dd>{}</dd>", escape_html(name), coloured(text_of(answers[name][i], "answer"), present, known));
      }
      items += fmt::format("<article class=\"look\"><figure><img alt=\"held-out picture\" src=\"{}\"><figcaption>{}</figcaption></figure><dl>{}</dl></article>",
                           data_address(image.string(), "image/png"), escape_html(truth), rows);
    }
    return "<section><h2>The same pictures, stage after stage</h2><p>Held-out pictures; under each stand the objects that are in it. "
           "<u class=\"yes\">Green</u> words name one of them, <u class=\"no\">red</u> ones name something that is not there.</p>" + items + "</section>";
  }

  std::string pairs() const {
    const std::vector<Json> rows = read_lines(folder_ / "alignment" / "pairs.jsonl");
    if (rows.empty() || !summary_.contains("alignment")) return "";
    const Json& alignment = summary_["alignment"];
    const Json rollout = alignment.value("rollout", Json::object()), report = alignment.value("pairs", Json::object());
    std::string facts = fmt::format("<p>{:.0f} pictures, {:.0f} answers, {:.0f} claims put to the judge, {:.0f} pairs.</p>",
                                    number(rollout, "prompts"), number(rollout, "answers"),
                                    number(alignment.value("claims", Json::object()), "claims"), number(report, "pairs"));
    std::string times;
    if (alignment.contains("seconds") && alignment["seconds"].is_object()) {
      std::vector<Bar> bars;
      for (auto item = alignment["seconds"].begin(); item != alignment["seconds"].end(); ++item) {
        if (item->is_number()) bars.push_back({item.key(), item->get<double>(), duration(item->get<double>()), kLine});
      }
      times = "<h3>where the time went</h3>" + bar_chart(bars);
    }
    std::string list;
    for (std::size_t i = 0; i < rows.size() && i < 12; ++i) {
      list += fmt::format("<article class=\"choice\"><p class=\"chosen\"><b>chosen, score {:.0f}</b>{}</p><p class=\"rejected\"><b>rejected, score {:.0f}</b>{}</p></article>",
                          number(rows[i], "chosen_score"), escape_html(text_of(rows[i], "chosen")), number(rows[i], "rejected_score"),
                          escape_html(text_of(rows[i], "rejected")));
    }
    return "<section><h2>Pairs that the loop built</h2>" + facts + times + "<div class=\"choices\">" + list + "</div></section>";
  }

  std::string phone() const {
    if (!summary_.contains("exports")) return "";
    std::string rows;
    std::vector<Bar> sizes;
    for (const Json& file : summary_["exports"]) {
      const Json parity = file.value("parity", Json::object()), phone = file.value("phone", Json::object());
      rows += fmt::format(
          "<tr><th>{}</th><td>{:.2f} MB</td><td>{:.2f} MB</td><td>{}</td><td>{:.0f} of {:.0f}</td><td>{:.5f}</td><td>{:.6f}</td>"
          "<td>{:.1f} ms</td><td>{:.0f}</td><td>{:.0f}</td></tr>",
          escape_html(text_of(file, "type")), number(file, "language_bytes") / 1e6, number(file, "mmproj_bytes") / 1e6,
          percent(number(parity, "agreement")), number(parity, "greedy_identical"), number(parity, "prompts"), number(parity, "kl"),
          number(parity, "vision_cosine"), number(phone, "vision_ms_per_slice"), number(phone, "prefill_tps"), number(phone, "decode_tps"));
      sizes.push_back({text_of(file, "type"), number(file, "language_bytes"), fmt::format("{:.2f} MB", number(file, "language_bytes") / 1e6), kAfter});
    }
    return "<section><h2>On the phone runtime</h2>" + bar_chart(sizes) +
           "<div class=\"scroll\"><table><tr><th>type</th><th>language file</th><th>vision file</th><th>same next token</th><th>same whole answer</th><th>KL, nats</th>"
           "<th>visual cosine, least</th><th>vision, a slice</th><th>prefill tokens/s</th><th>decode tokens/s</th></tr>" + rows + "</table></div></section>";
  }

  fs::path folder_;
  Json summary_;
};

}  // namespace

void write_report(const std::string& run_folder) {
  Report report{fs::path(run_folder)};
  write_file_atomic((fs::path(run_folder) / "report.html").string(), report.html());
}

}  // namespace pocketvlm
