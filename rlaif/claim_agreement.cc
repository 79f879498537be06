#include "rlaif/claim_agreement.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "rlaif/jsonl_log.h"

namespace pocketvlm {
namespace {

using PictureClaims = ClaimAgreement::PictureClaims;

PictureClaims read_line(const Json& line, const std::string& where) {
  const auto check = [&](bool fits) {
    PV_CHECK(fits, "{}: is not of the form {{\"image\": path, \"claims\": [{{\"text\": ..., \"true\": true or false}}]}}", where);
  };
  check(line.contains("image") && line["image"].is_string() && line.contains("claims") && line["claims"].is_array());
  PictureClaims picture;
  picture.image = line["image"].get<std::string>();
  for (const Json& claim : line["claims"]) {
    check(claim.is_object() && claim.contains("text") && claim["text"].is_string() && claim.contains("true") &&
          claim["true"].is_boolean());
    picture.claims.push_back({claim["text"].get<std::string>(), claim["true"].get<bool>(), {}, false, ""});
  }
  return picture;
}

// p_yes + p_no of each answered question is added to `coverages`.
void ask_judge(const Image& image, Judge& judge, double margin, PictureClaims& picture, std::vector<double>& coverages) {
  std::vector<std::string> questions;
  for (const PictureClaims::Row& claim : picture.claims) {
    for (const std::string& question : claim.questions) {
      if (std::find(questions.begin(), questions.end(), question) == questions.end()) questions.push_back(question);
    }
  }
  if (questions.empty()) return;
  const std::vector<Verdict> verdicts = judge.verdicts(image, questions);
  for (const Verdict& verdict : verdicts) {
    if (verdict.asked()) coverages.push_back(verdict.coverage());
  }
  for (PictureClaims::Row& claim : picture.claims) {
    claim.said_yes = claim.problem.empty();
    for (const std::string& question : claim.questions) {
      const auto place = std::find(questions.begin(), questions.end(), question) - questions.begin();
      const Verdict& verdict = verdicts[static_cast<std::size_t>(place)];
      claim.said_yes = claim.said_yes && verdict.accepted(margin);
      if (!verdict.asked()) claim.problem = verdict.problem;
    }
  }
}

Json share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? Json(nullptr) : Json(static_cast<double>(part) / static_cast<double>(whole));
}

// Figures of some pictures' claims.
struct Sums {
  std::int64_t claims = 0, right = 0, yes = 0, are_true = 0, right_true = 0, problems = 0;

  void add(const PictureClaims::Row& claim) {
    ++claims;
    right += claim.said_yes == claim.truth ? 1 : 0;
    yes += claim.said_yes ? 1 : 0;
    are_true += claim.truth ? 1 : 0;
    right_true += claim.truth && claim.said_yes ? 1 : 0;
    problems += claim.problem.empty() ? 0 : 1;
  }
  Json to_json() const {
    return {{"claims", claims},
            {"accuracy", share(right, claims)},
            {"said_yes", share(yes, claims)},
            {"true_claims", are_true},
            {"of_true", share(right_true, are_true)},
            {"false_claims", claims - are_true},
            {"of_false", share(right - right_true, claims - are_true)},
            {"problems", problems}};
  }
};

}  // namespace

Json ClaimAgreement::to_json() const {
  Sums all;
  std::int64_t read = 0;
  std::int64_t not_asked = 0;
  Json missing = Json::array();
  Json by_picture = Json::array();
  for (const PictureClaims& picture : pictures) {
    if (!picture.missing.empty()) {
      not_asked += static_cast<std::int64_t>(picture.claims.size());
      missing.push_back({{"image", picture.image}, {"reason", picture.missing}, {"claims", picture.claims.size()}});
      continue;
    }
    ++read;
    Sums own;
    Json rows = Json::array();
    for (const PictureClaims::Row& claim : picture.claims) {
      all.add(claim);
      own.add(claim);
      rows.push_back(
          {{"text", claim.text}, {"true", claim.truth}, {"said_yes", claim.said_yes}, {"questions", claim.questions}});
      if (!claim.problem.empty()) rows.back()["problem"] = claim.problem;
    }
    Json figures = own.to_json();
    figures["image"] = picture.image;
    figures["rows"] = std::move(rows);
    by_picture.push_back(std::move(figures));
  }
  Json json = all.to_json();
  json["pictures"] = read;
  json["mean_coverage"] = mean_coverage;
  json["not_asked"] = not_asked;
  json["missing"] = std::move(missing);
  json["by_picture"] = std::move(by_picture);
  return json;
}

ClaimAgreement judge_claims_file(const std::string& path, Splitter& splitter, Judge& judge, double margin) {
  PV_CHECK(std::filesystem::exists(path), "{}: is not there", path);
  const std::vector<Json> lines = read_jsonl(path);
  PV_CHECK(!lines.empty(), "{}: holds no line", path);
  ClaimAgreement agreement;
  for (std::size_t i = 0; i < lines.size(); ++i)
    agreement.pictures.push_back(read_line(lines[i], fmt::format("{}:{}", path, i + 1)));
  const auto folder = std::filesystem::path(path).parent_path();
  Progress progress("agree: pictures", static_cast<std::int64_t>(lines.size()));
  std::int64_t done = 0;
  bool any = false;
  std::vector<double> coverages;
  for (PictureClaims& picture : agreement.pictures) {
    std::optional<Image> image;
    try {
      image = load_image((folder / picture.image).string());
    } catch (const Error& error) {
      picture.missing = error.what();
    }
    if (image) {
      std::vector<SplitTask> tasks;
      for (const PictureClaims::Row& claim : picture.claims) tasks.push_back({"", claim.text});
      std::vector<SplitResult> results = splitter.split(tasks);
      for (std::size_t c = 0; c < results.size(); ++c) {
        PictureClaims::Row& row = picture.claims[c];
        for (Claim& claim : results[c].claims) row.questions.push_back(std::move(claim.question));
        row.problem = results[c].problem;
        if (row.questions.empty() && row.problem.empty()) row.problem = "the splitter finds no claim in it";
      }
      ask_judge(*image, judge, margin, picture, coverages);
      any = true;
    }
    progress.update(++done);
  }
  progress.finish();
  PV_CHECK(any, "{}: none of its {} pictures can be read; the first: {}", path, lines.size(), agreement.pictures.front().missing);
  if (!coverages.empty())
    agreement.mean_coverage = std::accumulate(coverages.begin(), coverages.end(), 0.0) / static_cast<double>(coverages.size());
  return agreement;
}

}  // namespace pocketvlm
