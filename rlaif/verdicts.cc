#include "rlaif/verdicts.h"

#include <filesystem>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "rlaif/refusals.h"
#include "rlaif/truth.h"

namespace pocketvlm {
namespace {

constexpr double kLowestCoverage = 0.5;

struct JudgedQuestion {
  std::string question;
  Verdict verdict;
  std::optional<bool> truth;
};

Json to_row(const PromptClaims& prompt, const JudgedQuestion& judged, double margin) {
  Json row = to_row(prompt, judged.question, judged.verdict, margin);
  if (judged.truth) row["truth"] = *judged.truth;
  return row;
}

// The rows of a prompt's questions from `row` on; nothing when they are not all there. Rows of
// other questions mean that the claims were split otherwise: they count as missing.
std::optional<std::vector<JudgedQuestion>> read_prompt(const std::vector<Json>& rows,
                                                       const std::string& path,
                                                       const PromptClaims& prompt,
                                                       const std::vector<std::string>& questions,
                                                       double margin,
                                                       std::size_t row) {
  std::vector<JudgedQuestion> judged;
  try {
    for (const std::string& question : questions) {
      if (row == rows.size()) return std::nullopt;
      const Json& json = rows[row];
      if (json.at("index").get<std::int64_t>() != prompt.index ||
          json.at("question").get<std::string>() != question) {
        return std::nullopt;
      }
      PV_CHECK(json.value("key", "") == verdict_key(prompt.picture_key, question),
               "{}:{}: is no verdict on the picture that was sampled from; delete the file to make it again",
               path,
               row + 1);
      JudgedQuestion read;
      read.question = question;
      read.verdict = {number_of(json.at("p_yes")),
                      number_of(json.at("p_no")),
                      json.value("problem", "")};
      PV_CHECK(json.at("accepted").get<bool>() == read.verdict.accepted(margin),
               "{}:{}: {} under another judge_margin than {:g}; take the margin that it was judged with, or judge in another "
               "folder",
               path,
               row + 1,
               json.at("accepted").get<bool>() ? "was accepted" : "was rejected",
               margin);
      if (json.contains("truth")) read.truth = json.at("truth").get<bool>();
      judged.push_back(std::move(read));
      ++row;
    }
  } catch (const Json::exception& error) {
    fail("{}:{}: {}; delete the file to make it again", path, row + 1, error.what());
  }
  return judged;
}

std::vector<JudgedQuestion> judge_prompt(Judge& judge,
                                         const PromptAnswers& answers,
                                         const std::vector<std::string>& questions,
                                         const Prompts& prompts,
                                         const ObjectVocabulary& vocabulary) {
  const Picture picture = checked_picture(prompts, answers.index, answers.picture_key);
  const std::vector<Verdict> verdicts = judge.verdicts(picture.image, questions);
  PV_CHECK(verdicts.size() == questions.size(),
           "judge {}: {} verdicts on {} questions",
           judge.name(),
           verdicts.size(),
           questions.size());
  std::vector<JudgedQuestion> judged;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    judged.push_back(
        {questions[i],
         verdicts[i],
         truth_of(
             questions[i], picture.truth, picture.image.width, picture.image.height, vocabulary)});
  }
  return judged;
}

void count(const JudgedQuestion& judged,
           double margin,
           JudgeAgreement& agreement,
           double& coverage) {
  ++agreement.questions;
  if (!judged.verdict.asked()) {
    const std::string& problem = judged.verdict.problem;
    ++(problem.starts_with("too long") ? agreement.too_long
       : Refusals::is_refusal(problem) ? agreement.refused
                                        : agreement.unreadable);
    return;
  }
  coverage += judged.verdict.coverage();
  agreement.mean_coverage =
      coverage / static_cast<double>(agreement.answered());
  const bool accepted = judged.verdict.accepted(margin);
  agreement.accepted += accepted ? 1 : 0;
  if (!judged.truth) return;
  ++agreement.known;
  if (*judged.truth)
    ++(accepted ? agreement.accepted_true : agreement.rejected_true);
  else
    ++(accepted ? agreement.accepted_false : agreement.rejected_false);
}

}  // namespace

Json to_row(const PromptClaims& prompt, const std::string& question, const Verdict& verdict, double margin) {
  Json row = {{"prompt_id", prompt.id},
              {"index", prompt.index},
              {"question", question},
              {"key", verdict_key(prompt.picture_key, question)},
              {"p_yes", verdict.p_yes},
              {"p_no", verdict.p_no},
              {"accepted", verdict.accepted(margin)}};
  if (!verdict.asked()) row["problem"] = verdict.problem;
  return row;
}

Json JudgeAgreement::to_json() const {
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return whole == 0 ? Json(nullptr)
                      : Json(static_cast<double>(part) / static_cast<double>(whole));
  };
  return {{"questions", questions},
          {"too_long", too_long},
          {"unreadable", unreadable},
          {"refused", refused},
          {"mean_coverage", mean_coverage},
          {"accepted_share", share(accepted, questions)},
          {"known", known},
          {"agreement", share(accepted_true + rejected_false, known)},
          {"true_share", share(accepted_true + rejected_true, known)},
          {"accepted_of_true", share(accepted_true, accepted_true + rejected_true)},
          {"rejected_of_false", share(rejected_false, rejected_false + accepted_false)},
          {"accepted_true", accepted_true},
          {"accepted_false", accepted_false},
          {"rejected_true", rejected_true},
          {"rejected_false", rejected_false}};
}

std::vector<VerdictTable> judge_claims(const RlaifConfig& config,
                                       Judge& judge,
                                       const std::vector<PromptClaims>& claims,
                                       const std::vector<PromptAnswers>& answers,
                                       const Prompts& prompts,
                                       const ObjectVocabulary& vocabulary,
                                       JsonlLog& log,
                                       JudgeAgreement& agreement,
                                       const RoundObserver& observer,
                                       const WorkingRanks& ranks) {
  std::vector<VerdictTable> tables;
  double coverage = 0;
  Refusals refusals;
  const auto take = [&](const std::vector<JudgedQuestion>& judged) {
    tables.emplace_back();
    for (const JudgedQuestion& question : judged) {
      tables.back()[question.question] = question.verdict;
      count(question, config.judge_margin, agreement, coverage);
      refusals.count(question.verdict.problem);
    }
  };
  const auto check_coverage = [&] {
    PV_CHECK(
        agreement.answered() == 0 || agreement.mean_coverage >= kLowestCoverage,
        "judge {}: on {} questions its first word was yes or no with a probability of {:.3f} on "
        "average, which is no "
        "basis for a verdict (at least {}); train it on yes/no answers, with the chat template of "
        "its config.json",
        judge.name(),
        agreement.questions,
        agreement.mean_coverage,
        kLowestCoverage);
  };
  // Takes the verdicts on the next prompts as far as `rows` hold them; returns how many rows these are.
  std::size_t next = 0;
  const auto take_prompts = [&](const std::vector<Json>& rows) {
    std::size_t row = 0;
    for (; next < claims.size(); ++next) {
      const std::vector<std::string> questions = claims[next].questions();
      const auto judged = read_prompt(rows, log.path(), claims[next], questions, config.judge_margin, row);
      if (!judged) break;
      take(*judged);
      row += questions.size();
    }
    return row;
  };
  if (const std::size_t rows = take_prompts(log.rows()); rows < log.rows().size()) log.keep(rows);

  const auto group = is_server(config.judge) ? 1 : static_cast<std::size_t>(config.batch);
  std::optional<Progress> progress;
  if (ranks.is_first())
    progress.emplace("judge: pictures", static_cast<std::int64_t>(claims.size()), static_cast<std::int64_t>(next));
  while (next < claims.size()) {
    const WorkTurn turn = turn_of(ranks, next, claims.size(), group);
    std::vector<Json> own;
    for (std::size_t i = turn.own_begin; i < turn.own_end; ++i) {
      const std::vector<std::string> questions = claims[i].questions();
      if (!questions.empty()) {
        for (const JudgedQuestion& question : judge_prompt(judge, answers[i], questions, prompts, vocabulary))
          own.push_back(to_row(claims[i], question, config.judge_margin));
      }
      if (progress) progress->update(static_cast<std::int64_t>(i + 1));
    }
    const std::vector<Json> rows = gather_rows(ranks, own);
    take_prompts(rows);
    check_coverage();
    refusals.check("judge " + judge.name(), log);
    log.append(rows);
    if (progress) progress->update(static_cast<std::int64_t>(turn.end));
    if (observer) observer("judge", static_cast<std::int64_t>(turn.end));
  }
  if (progress) progress->finish();
  check_coverage();
  refusals.check("judge " + judge.name(), log, 0);
  return tables;
}

std::vector<VerdictTable> read_verdicts(const std::string& path,
                                        const std::vector<PromptClaims>& claims,
                                        double margin,
                                        const WorkingRanks& ranks) {
  PV_CHECK(std::filesystem::exists(path),
           "{}: is not there; make it with `pocketvlm rlaif judge`",
           path);
  const JsonlLog log(path, ranks);
  std::vector<VerdictTable> tables;
  std::size_t row = 0;
  for (const PromptClaims& prompt : claims) {
    const std::vector<std::string> questions = prompt.questions();
    const auto judged = read_prompt(log.rows(), path, prompt, questions, margin, row);
    PV_CHECK(judged.has_value(),
             "{}:{}: verdicts on the claims of prompt {} are missing; finish them with `pocketvlm "
             "rlaif judge`",
             path,
             row + 1,
             prompt.index);
    row += questions.size();
    tables.emplace_back();
    for (const JudgedQuestion& question : *judged)
      tables.back()[question.question] = question.verdict;
  }
  return tables;
}

}  // namespace pocketvlm
