#include "rlaif/view.h"

#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "rlaif/odd_cases.h"
#include "rlaif/prompts.h"
#include "rlaif/round_files.h"
#include "trainer/report/html.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStyle = R"(
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1100px;padding:24px;background:#fafafa;color:#222}
h1{font-size:24px}h2{font-size:17px;margin:28px 0 8px}
.pair{display:grid;grid-template-columns:240px 1fr 1fr;gap:16px;background:#fff;border:1px solid #ddd;border-radius:8px;padding:16px;margin:16px 0}
.pair img{width:100%;border-radius:4px}.side{border-left:4px solid #ccc;padding-left:12px}
.chosen{border-color:#2a8c4a}.rejected{border-color:#c0392b}
ul{list-style:none;padding:0;margin:8px 0}li{padding:2px 6px;margin:2px 0;border-radius:4px}
.yes{background:#e3f5e8}.no{background:#fbe4e1}.none{background:#eee}
.truth{float:right;font-size:12px;color:#555}.wrong{font-weight:bold;color:#b03010}
small{color:#666}table{border-collapse:collapse}td,th{padding:3px 10px;border-bottom:1px solid #ddd;text-align:left}
@media(max-width:800px){.pair{grid-template-columns:1fr}}
)";

struct Judged {
  std::optional<bool> accepted, truth;
  double p_yes = 0, p_no = 0;
  std::string problem;
};

class Page {
 public:
  explicit Page(std::string folder) : folder_(std::move(folder)) {
    const std::string path = folder_ + "/config.json";
    PV_CHECK(fs::exists(path), "{}: is no folder of a round: it has no config.json", folder_);
    config_ = read_config<RlaifConfig>(read_json(path), path);
    prompts_.emplace(config_, read_round(folder_));
    for (const Json& row : rows("claims.jsonl")) {
      auto& list = claims_[{row.at("index").get<std::int64_t>(), row.at("sample").get<std::int64_t>()}];
      for (const Json& claim : row.at("claims"))
        list.push_back({claim.at("claim").get<std::string>(), claim.at("question").get<std::string>()});
    }
    for (const Json& row : rows("verdicts.jsonl")) {
      Judged judged;
      judged.accepted = row.at("accepted").get<bool>();
      judged.p_yes = row.at("p_yes").get<double>();
      judged.p_no = row.at("p_no").get<double>();
      judged.problem = row.value("problem", "");
      if (row.contains("truth")) judged.truth = row["truth"].get<bool>();
      verdicts_[{row.at("index").get<std::int64_t>(), row.at("question").get<std::string>()}] = judged;
    }
  }

  std::string html(std::int64_t count) {
    const std::vector<Json> pairs = rows("pairs.jsonl");
    PV_CHECK(!pairs.empty(), "{}: has no pairs yet; run `pocketvlm rlaif pairs`", folder_);
    const auto shown = std::min<std::size_t>(pairs.size(), static_cast<std::size_t>(count));
    std::string page = fmt::format(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{0}</title>"
        "<style>{1}</style><h1>{0}</h1><p>{2} pairs, {3} shown. A claim is <span class=yes>&nbsp;accepted&nbsp;</span> or "
        "<span class=no>&nbsp;rejected&nbsp;</span> by the judge; where the picture's truth is known it stands at the right, in bold "
        "where the judge erred.</p>",
        escape_html(config_.name),
        kStyle,
        pairs.size(),
        shown);
    page += odd_table();
    for (std::size_t i = 0; i < shown; ++i) page += pair_html(pairs[i]);
    return page + "</html>\n";
  }

 private:
  std::vector<Json> rows(const char* file) const {
    const std::string path = folder_ + "/" + file;
    return fs::exists(path) ? read_jsonl(path) : std::vector<Json>{};
  }

  std::string odd_table() const {
    std::string table = "<details><summary>What did not go the usual way</summary><table><tr><th>stage<th>what<th>how many<th>effect";
    for (const Json& item : odd_cases(folder_)) {
      table += fmt::format("<tr><td>{}<td>{}<td>{} of {}<td>{}",
                           escape_html(item.at("stage").get<std::string>()),
                           escape_html(item.at("what").get<std::string>()),
                           item.at("count").get<std::int64_t>(),
                           item.at("of").get<std::int64_t>(),
                           escape_html(item.at("effect").get<std::string>()));
    }
    return table + "</table></details>";
  }

  std::string claims_html(std::int64_t index, std::int64_t sample) const {
    const auto found = claims_.find({index, sample});
    if (found == claims_.end()) return "";
    std::string list = "<ul>";
    for (const auto& [claim, question] : found->second) {
      const auto verdict = verdicts_.find({index, question});
      if (verdict == verdicts_.end()) {
        list += fmt::format("<li class=none>{}", escape_html(claim));
        continue;
      }
      const Judged& judged = verdict->second;
      list += fmt::format("<li class={} title=\"{} p_yes {:.3f}, p_no {:.3f} {}\">{}",
                          *judged.accepted ? "yes" : "no",
                          escape_html(question),
                          judged.p_yes,
                          judged.p_no,
                          escape_html(judged.problem),
                          escape_html(claim));
      if (judged.truth) {
        list += fmt::format("<span class=\"truth{}\">{}</span>",
                            *judged.truth == *judged.accepted ? "" : " wrong",
                            *judged.truth ? "true" : "false");
      }
    }
    return list + "</ul>";
  }

  std::string side(const char* name, const PreferencePair& pair, bool chosen) const {
    return fmt::format("<div class=\"side {0}\"><small>{0}, score {1:g}</small><p>{2}</p>{3}</div>",
                       name,
                       chosen ? pair.chosen_score : pair.rejected_score,
                       escape_html(chosen ? pair.chosen : pair.rejected),
                       claims_html(pair.index, chosen ? pair.chosen_sample : pair.rejected_sample));
  }

  std::string pair_html(const Json& row) const {
    const PreferencePair pair = PreferencePair::from_json(row);
    std::string picture;
    try {
      picture = fmt::format("<img alt=\"picture {}\" src=\"data:image/png;base64,{}\">",
                            pair.index,
                            encode_base64(encode_png(checked_picture(*prompts_, pair.index, pair.picture_key).image)));
    } catch (const Error& error) {
      picture = "<small>" + escape_html(error.what()) + "</small>";
    }
    return fmt::format("<div class=pair><div>{}<p><small>{}</small></div>{}{}</div>",
                       picture,
                       escape_html(pair.question),
                       side("chosen", pair, true),
                       side("rejected", pair, false));
  }

  std::string folder_;
  RlaifConfig config_;
  std::optional<Prompts> prompts_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::pair<std::string, std::string>>> claims_;
  std::map<std::pair<std::int64_t, std::string>, Judged> verdicts_;
};

std::string cell(const Json& object, const char* name) {
  return object.contains(name) && object[name].is_number() ? fmt::format("{:.4g}", object[name].get<double>()) : "";
}

// A line a round with what evaluation said of its choice, and the way to its own page.
std::string loop_page(const std::string& folder, const std::vector<std::string>& rounds) {
  std::string page = fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{0}</title>"
      "<style>{1}</style><h1>{0}</h1><table><tr><th>round<th>steps chosen<th>CHAIR_i<th>recall<th>words<th>why",
      escape_html(fs::path(folder).lexically_normal().filename().string()),
      kStyle);
  for (const std::string& round : rounds) {
    const std::string path = folder + "/" + round + "/choice.json";
    const Json choice = fs::exists(path) ? read_json(path) : Json::object();
    const Json figures = choice.value("figures", Json::object());
    page += fmt::format("<tr><td><a href=\"{0}/view.html\">{0}</a><td>{1}<td>{2}<td>{3}<td>{4}<td>{5}",
                        round,
                        cell(choice, "steps"),
                        cell(figures, "chair_i"),
                        cell(figures, "object_recall"),
                        cell(figures, "mean_answer_words"),
                        escape_html(choice.value("why", "not evaluated")));
  }
  return page + "</table></html>\n";
}

}  // namespace

std::vector<std::string> rounds_of_loop(const std::string& folder) {
  std::vector<std::string> rounds;
  while (fs::exists(fmt::format("{}/round-{}", folder, rounds.size() + 1)))
    rounds.push_back(fmt::format("round-{}", rounds.size() + 1));
  return rounds;
}

std::string view_page(const std::string& folder, std::int64_t count) {
  const std::vector<std::string> rounds = rounds_of_loop(folder);
  return rounds.empty() ? Page(folder).html(count) : loop_page(folder, rounds);
}

}  // namespace pocketvlm
