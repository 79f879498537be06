#include "rlaif/round_figures.h"

#include <utility>

namespace pocketvlm {

std::vector<ScoredPrompt> score_answers(const RlaifConfig& config,
                                        const std::vector<PromptAnswers>& prompts,
                                        const std::vector<PromptClaims>& claims,
                                        const std::vector<VerdictTable>& verdicts,
                                        std::vector<Json>& rows) {
  std::vector<ScoredPrompt> scored;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!prompts[i].skipped.empty()) continue;
    ScoredPrompt prompt{prompts[i].id, prompts[i].index, prompts[i].question, {}, prompts[i].picture_key};
    for (std::size_t j = 0; j < prompts[i].answers.size(); ++j) {
      const Answer& answer = prompts[i].answers[j];
      const AnswerClaims& stated = claims[i].answers[j];
      ScoredAnswer result;
      result.text = answer.text;
      result.sample = answer.sample;
      if (!answer.finished) result.cut = answer.cut.empty() ? "an unknown limit" : answer.cut;
      result.unread = !stated.problem.empty();
      for (const Claim& claim : stated.claims) {
        const Verdict& verdict = verdicts[i].at(claim.question);
        ++result.claims;
        result.rejected += verdict.accepted(config.judge_margin) ? 0 : 1;
        if (verdict.coverage() > 0) result.probability_sum += verdict.p_yes / verdict.coverage();
      }
      rows.push_back({{"prompt_id", prompt.id},
                      {"index", prompt.index},
                      {"sample", result.sample},
                      {"key", answer_key(prompts[i], answer)},
                      {"score", result.score(config.pairs)},
                      {"rejected", result.rejected},
                      {"claims", result.claims},
                      {"finished", result.cut.empty()}});
      prompt.answers.push_back(std::move(result));
    }
    scored.push_back(std::move(prompt));
  }
  return scored;
}

Json rollout_figures(const std::vector<PromptAnswers>& prompts) {
  Json skipped = Json::array();
  std::int64_t answers = 0;
  std::int64_t tokens = 0;
  std::int64_t words = 0;
  std::int64_t finished = 0;
  for (const PromptAnswers& prompt : prompts) {
    if (!prompt.skipped.empty())
      skipped.push_back(
          {{"index", prompt.index}, {"prompt_id", prompt.id}, {"reason", prompt.skipped}});
    for (const Answer& answer : prompt.answers) {
      ++answers;
      tokens += static_cast<std::int64_t>(answer.ids.size());
      words += count_words(answer.text);
      finished += answer.finished ? 1 : 0;
    }
  }
  const auto mean = [&](std::int64_t sum) {
    return answers == 0 ? 0.0 : static_cast<double>(sum) / static_cast<double>(answers);
  };
  return {{"prompts", prompts.size()},
          {"skipped", skipped},
          {"answers", answers},
          {"finished", finished},
          {"tokens", tokens},
          {"mean_tokens", mean(tokens)},
          {"mean_words", mean(words)}};
}

Json claim_figures(const std::vector<PromptClaims>& prompts,
                   const std::vector<ScoredPrompt>& scored) {
  std::int64_t claims = 0;
  std::int64_t rejected = 0;
  std::int64_t answers = 0;
  std::int64_t questions = 0;
  for (const PromptClaims& prompt : prompts)
    questions += static_cast<std::int64_t>(prompt.questions().size());
  for (const ScoredPrompt& prompt : scored) {
    for (const ScoredAnswer& answer : prompt.answers) {
      ++answers;
      claims += answer.claims;
      rejected += answer.rejected;
    }
  }
  const auto ratio = [](std::int64_t part, std::int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  return {{"claims", claims},
          {"claims_per_answer", ratio(claims, answers)},
          {"questions", questions},
          {"questions_per_picture", ratio(questions, static_cast<std::int64_t>(prompts.size()))},
          {"rejected", rejected},
          {"rejected_share", ratio(rejected, claims)}};
}

}  // namespace pocketvlm
