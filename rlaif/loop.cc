#include "rlaif/loop.h"

#include <chrono>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "model/checkpoint.h"
#include "rlaif/pairs.h"
#include "rlaif/preference_training.h"
#include "rlaif/rollout.h"
#include "rlaif/verdicts.h"
#include "trainer/thread_count.h"

namespace pocketvlm {
namespace {

/// Seconds of each stage in seconds.json, summed over the processes that worked on it. A killed
/// process counts up to the end of its last whole stage.
class StageClock {
 public:
  explicit StageClock(std::string path) : path_(std::move(path)), seconds_(Json::object()) {
    if (std::filesystem::exists(path_)) seconds_ = read_json(path_);
  }
  void lap(const std::string& stage) {
    const auto now = std::chrono::steady_clock::now();
    const double before = seconds_.contains(stage) ? seconds_.at(stage).get<double>() : 0.0;
    seconds_[stage] = before + std::chrono::duration<double>(now - last_).count();
    last_ = now;
    write_json(path_, seconds_);
  }
  const Json& seconds() const { return seconds_; }

 private:
  std::string path_;
  Json seconds_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void write_jsonl(const std::string& path, const std::vector<Json>& rows) {
  std::string lines;
  for (const Json& row : rows)
    lines += row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  write_file_atomic(path, lines);
}

/// What decides the results. Threads change last bits only; where the models lie does not matter,
/// their weights do.
Json deciding_fields(const RlaifConfig& config) {
  Json json = config_to_json(config);
  for (const char* name : {"name", "policy", "judge", "threads"}) json.erase(name);
  json["preference"].erase("checkpoint_every");
  return json;
}

/// A folder holds one round: continuing it with other settings or other models is refused.
void check_same_round(const RlaifConfig& config,
                      const std::string& policy_hash,
                      const std::string& judge_hash,
                      const std::string& folder) {
  const std::string path = folder + "/inputs.json";
  const Json now = {
      {"policy", policy_hash}, {"judge", judge_hash}, {"config", deciding_fields(config)}};
  if (!std::filesystem::exists(path)) {
    write_json(path, now);
    write_json(folder + "/config.json", config_to_json(config));
    return;
  }
  const Json changes = Json::diff(read_json(path), now);
  PV_CHECK(changes.empty(),
           "{}: holds a round with other inputs (\"{}\" differs); delete the folder, or choose "
           "another one",
           folder,
           changes[0]["path"].get<std::string>().substr(1));
}

std::vector<PromptClaims> split_answers(const std::vector<PromptAnswers>& prompts,
                                        const std::string& path) {
  std::vector<PromptClaims> all;
  std::vector<Json> rows;
  for (const PromptAnswers& prompt : prompts) {
    PromptClaims claims{prompt.index, prompt.id, {}};
    for (const Answer& answer : prompt.answers) {
      claims.answers.push_back(split_claims(answer.text));
      Json list = Json::array();
      for (const Claim& claim : claims.answers.back())
        list.push_back({{"claim", claim.text}, {"question", claim.question}});
      rows.push_back({{"prompt_id", prompt.id},
                      {"index", prompt.index},
                      {"sample", answer.sample},
                      {"claims", list}});
    }
    all.push_back(std::move(claims));
  }
  write_jsonl(path, rows);
  return all;
}

std::vector<ScoredPrompt> score_answers(const RlaifConfig& config,
                                        const std::vector<PromptAnswers>& prompts,
                                        const std::vector<PromptClaims>& claims,
                                        const std::vector<VerdictTable>& verdicts,
                                        const std::string& path) {
  std::vector<ScoredPrompt> scored;
  std::vector<Json> rows;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!prompts[i].skipped.empty()) continue;
    ScoredPrompt prompt{prompts[i].id, prompts[i].index, {}};
    for (std::size_t j = 0; j < prompts[i].answers.size(); ++j) {
      const Answer& answer = prompts[i].answers[j];
      ScoredAnswer result;
      result.text = answer.text;
      result.sample = answer.sample;
      result.finished = answer.finished;
      for (const Claim& claim : claims[i].answers[j]) {
        ++result.claims;
        result.rejected += verdicts[i].at(claim.question).accepted() ? 0 : 1;
      }
      rows.push_back({{"prompt_id", prompt.id},
                      {"index", prompt.index},
                      {"sample", result.sample},
                      {"score", result.score(config.pairs)},
                      {"rejected", result.rejected},
                      {"claims", result.claims},
                      {"finished", result.finished}});
      prompt.answers.push_back(std::move(result));
    }
    scored.push_back(std::move(prompt));
  }
  write_jsonl(path, rows);
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

}  // namespace

Json run_rlaif(const RlaifConfig& config,
               const std::string& policy_folder,
               const std::string& judge_folder,
               const std::string& folder,
               const RoundObserver& observer) {
  make_folders(folder);
  const ThreadCount threads(config.threads);
  StageClock clock(folder + "/seconds.json");
  LoadedModel policy = load_model(policy_folder);
  const std::string policy_hash = weights_hash(*policy.model, {"*"});
  CheckpointJudge judge(judge_folder, config.compute_dtype, config.device);
  check_same_round(config, policy_hash, judge.identity(), folder);
  const std::string result_path = folder + "/result.json";
  if (std::filesystem::exists(result_path)) return read_json(result_path);

  // Patterns that match nothing are told now, not after an hour of sampling.
  set_trainable(*policy.model, config.preference.trainable);
  const Pictures pictures(config.prompts, config.num_prompts);
  policy.model->to(torch::Device(config.device));
  clock.lap("load");
  JsonlLog rollouts(folder + "/rollouts.jsonl");
  const std::vector<PromptAnswers> answers =
      sample_answers(config, policy, policy_hash, pictures, rollouts, observer);
  clock.lap("rollout");

  const std::vector<PromptClaims> claims = split_answers(answers, folder + "/claims.jsonl");
  clock.lap("claims");

  JudgeAgreement agreement;
  JsonlLog verdict_log(folder + "/verdicts.jsonl");
  const std::vector<VerdictTable> verdicts = judge_claims(config,
                                                          judge,
                                                          claims,
                                                          answers,
                                                          policy_hash,
                                                          pictures,
                                                          scene_vocabulary(config.prompts.scenes),
                                                          verdict_log,
                                                          agreement,
                                                          observer);
  clock.lap("judge");

  const std::vector<ScoredPrompt> scored =
      score_answers(config, answers, claims, verdicts, folder + "/scores.jsonl");
  PairReport report;
  const std::vector<PreferencePair> pairs =
      build_pairs(scored, config.instruction, config.pairs, config.seed, report);
  std::vector<Json> rows;
  for (const PreferencePair& pair : pairs) rows.push_back(pair.to_json());
  write_jsonl(folder + "/pairs.jsonl", rows);
  clock.lap("pairs");
  spdlog::info("{}: {} pairs of {} answers to {} pictures",
               folder,
               report.pairs,
               report.answers,
               report.prompts);

  const PictureReader picture = [&](std::int64_t index) { return pictures.at(index).image; };
  const PreferenceResult trained = train_preferences(
      config.preference, policy, pairs, picture, config.seed, config.device, folder, observer);
  save_model(policy.model, policy_folder + "/tokenizer.model", folder + "/checkpoint");
  clock.lap("preference");

  const Json result = {{"name", config.name},
                       {"rollout", rollout_figures(answers)},
                       {"claims", claim_figures(claims, scored)},
                       {"judge", agreement.to_json()},
                       {"pairs", report.to_json()},
                       {"preference", trained.to_json()},
                       {"seconds", clock.seconds()},
                       {"checkpoint", folder + "/checkpoint"}};
  write_json(result_path, result);
  std::filesystem::remove_all(folder + "/state");
  return result;
}

}  // namespace pocketvlm
