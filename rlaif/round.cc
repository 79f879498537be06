#include "rlaif/round.h"

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/random.h"
#include "model/checkpoint.h"
#include "model/layers.h"
#include "rlaif/checkpoint_judge.h"
#include "rlaif/checkpoint_splitter.h"
#include "rlaif/content_key.h"
#include "rlaif/job_ranks.h"
#include "rlaif/odd_cases.h"
#include "rlaif/pairs.h"
#include "rlaif/preference_training.h"
#include "rlaif/rlaifv_rows.h"
#include "rlaif/rollout.h"
#include "rlaif/round_figures.h"
#include "rlaif/verdicts.h"
#include "trainer/thread_count.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kRoundStream = 0x726F756E64;

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

/// Checks that a stage continues what it was begun with.
class StageInputs {
 public:
  explicit StageInputs(const std::string& folder) : folder_(folder), path_(folder + "/inputs.json") {
    json_ = std::filesystem::exists(path_) ? read_json(path_) : Json::object();
  }
  void check(const std::string& stage, const Json& now) {
    if (!json_.contains(stage)) {
      json_[stage] = now;
      write_json(path_, json_);
      return;
    }
    const Json changes = Json::diff(json_.at(stage), now);
    PV_CHECK(changes.empty(),
             "{}: holds a round with other inputs (\"{}{}\" differs); delete the folder, or choose "
             "another one",
             folder_,
             stage,
             changes[0]["path"].get<std::string>());
  }

 private:
  std::string folder_, path_;
  Json json_;
};

/// What decides the results of a stage. Threads change last bits only; where the models lie does not
/// matter, their weights do.
Json fields(const RlaifConfig& config, std::initializer_list<const char*> names) {
  const Json all = config_to_json(config);
  Json some = Json::object();
  for (const char* name : names) some[name] = all.at(name);
  if (some.contains("preference")) {
    for (const char* name : {"checkpoint_every", "checkpoint_in_background"}) some["preference"].erase(name);
  }
  return some;
}

ObjectVocabulary vocabulary(const RlaifConfig& config) { return scene_vocabulary(config.prompts.scenes); }

class Round {
 public:
  Round(const RlaifConfig& config, const RoundInputs& inputs, const RoundObserver& observer, Communicator& ranks)
      : config_(config),
        inputs_(inputs),
        folder_(inputs.folder),
        observer_(observer),
        ranks_(ranks),
        working_(working_ranks(ranks)),
        threads_(config.threads) {
    // Every round has random streams of its own; the first keeps the config's.
    if (inputs.round > 0)
      config_.seed = mix_keys({config.seed, kRoundStream, static_cast<std::uint64_t>(inputs.round)}) >> 1;
    device_ = device_of_rank(config.device, &ranks);
    if (!ranks.is_first()) return;
    make_folders(folder_);
    check_round(folder_, inputs.round);
    if (!std::filesystem::exists(folder_ + "/round.json")) write_round(folder_, inputs.round);
    clock_.emplace(folder_ + "/seconds.json");
    stage_inputs_.emplace(folder_);
  }

  Json run(const std::string& last) {
    const std::string result_path = folder_ + "/result.json";
    // Mistakes are told now, not after an hour of sampling.
    load_policy();
    load_judge();
    check_inputs("sample");
    check_inputs("judge");
    check_inputs("train");
    Json before = told_by_first(working_, [&] {
      return std::filesystem::exists(result_path) ? read_json(result_path) : Json();
    });
    if (!before.is_null()) return before;
    write_config();
    if (!config_.preference.trainable.empty()) set_trainable(*policy_->model, config_.preference.trainable);
    lap("load");
    for (const char* stage : {"sample", "split", "judge", "pairs", "train"}) {
      stage_named(stage);
      if (last == stage) break;
    }
    if (clock_) figures_["seconds"] = clock_->seconds();
    if (last != "train") return figures_;
    figures_["checkpoint"] = folder_ + "/checkpoint";
    if (ranks_.is_first()) {
      write_json(result_path, figures_);
      write_json(folder_ + "/odd_cases.json", odd_cases(folder_));
      std::filesystem::remove_all(folder_ + "/state");
    }
    return told_by_first(working_, [&] { return figures_; });
  }

  Json run_alone(const std::string& stage) {
    write_config();
    if (stage == "train") {
      load_policy();
      check_inputs("train");
      read_given_pairs();
    } else if (stage != "sample") {
      answers_ = read_answers(folder_ + "/rollouts.jsonl", working_);
    }
    if (stage == "judge" || stage == "pairs") claims_ = read_claims(folder_ + "/claims.jsonl", answers_, working_);
    if (stage == "pairs") verdicts_ = read_verdicts(folder_ + "/verdicts.jsonl", claims_, config_.judge_margin, working_);
    stage_named(stage);
    if (ranks_.is_first()) write_json(folder_ + "/odd_cases.json", odd_cases(folder_));
    ranks_.barrier();
    return figures_;
  }

 private:
  void stage_named(const std::string& stage) {
    if (stage == "sample") sample();
    else if (stage == "split") split();
    else if (stage == "judge") judge();
    else if (stage == "pairs") pair();
    else if (stage == "train") train();
    else fail("rlaif: unknown stage \"{}\"", stage);
  }

  void write_config() const {
    if (ranks_.is_first() && !std::filesystem::exists(folder_ + "/config.json"))
      write_json(folder_ + "/config.json", config_to_json(config_));
  }

  void lap(const std::string& stage) {
    if (clock_) clock_->lap(stage);
  }

  // The config as it is on this rank: with its device.
  RlaifConfig own_config() const {
    RlaifConfig own = config_;
    own.device = device_;
    return own;
  }

  // Every rank reads its models itself.
  void check_same(const char* what, const std::string& identity) {
    const std::vector<std::string> all = ranks_.gather_texts(identity);
    for (std::size_t rank = 1; rank < all.size(); ++rank) {
      PV_CHECK(all[rank] == all[0],
               "{}: rank {} has another {} than rank 0; all ranks must read the same checkpoint",
               folder_,
               rank,
               what);
    }
  }

  void load_policy() {
    if (policy_) return;
    policy_ = load_model(inputs_.policy);
    policy_hash_ = weights_hash(*policy_->model, {"*"});
    check_same("policy", policy_hash_);
    policy_->model->to(torch::Device(device_));
  }
  void load_judge() {
    if (judge_) return;
    judge_ = make_judge(own_config(), inputs_.judge);
    check_same("judge", judge_->identity());
  }
  const Prompts& prompts() {
    if (prompts_) return *prompts_;
    prompts_.emplace(config_, inputs_.round);
    if (!ranks_.is_first() || prompts_->repeated() == 0) return *prompts_;
    spdlog::warn("{}: {} of {} prompts are those of an earlier round: the rounds need more than there are",
                 folder_,
                 prompts_->repeated(),
                 prompts_->size());
    write_round(folder_, inputs_.round, prompts_->repeated());
    return *prompts_;
  }

  void check_inputs(const std::string& stage) {
    if (!stage_inputs_) return;
    Json now;
    if (stage == "sample") {
      now = fields(config_, {"prompts", "instructions", "num_prompts", "instruction", "rollout", "batch", "compute_dtype",
                             "device", "seed"});
      now["policy"] = policy_hash_;
    } else if (stage == "judge") {
      now = fields(config_, {"judge_margin", "share_prefix", "compute_dtype", "device"});
      now["identity"] = judge_->identity();
    } else if (stage == "split") {
      now["identity"] = splitter_->identity();
    } else if (stage == "pairs") {
      now = fields(config_, {"pairs", "seed"});
    } else {
      now = fields(config_, {"preference", "reference", "seed", "device"});
      now["policy"] = policy_hash_;
    }
    stage_inputs_->check(stage, now);
  }

  // Ranks at a stage; a server is asked by one, and takes its time, while the others wait.
  WorkingRanks ranks_at(const std::string& role) const {
    return is_server(role) ? working_.with_one_worker() : working_;
  }
  void watch(std::optional<WatchedRanks>& watched, const std::string& role, const char* phase) {
    if (!is_server(role)) watched.emplace(ranks_, config_.distributed.timeout_s, phase);
  }

  void sample() {
    load_policy();
    check_inputs("sample");
    const WatchedRanks watched(ranks_, config_.distributed.timeout_s, "sampling answers");
    JsonlLog log(folder_ + "/rollouts.jsonl", working_);
    answers_ = sample_answers(config_, *policy_, policy_hash_, prompts(), log, observer_, working_);
    figures_["rollout"] = rollout_figures(answers_);
    figures_["rollout"]["repeated_prompts"] = prompts().repeated();
    lap("rollout");
  }

  void split() {
    if (!splitter_) {
      splitter_ = make_splitter(own_config(), inputs_.splitter);
      check_same("splitter", splitter_->identity());
    }
    check_inputs("split");
    std::optional<WatchedRanks> watched;
    watch(watched, config_.splitter, "splitting answers");
    JsonlLog log(folder_ + "/claims.jsonl", working_);
    claims_ = split_answers(config_, *splitter_, answers_, log, observer_, ranks_at(config_.splitter));
    if (const Json traffic = splitter_->traffic(); !traffic.is_null()) figures_["splitter_traffic"] = traffic;
    lap("claims");
  }

  void judge() {
    load_judge();
    check_inputs("judge");
    std::optional<WatchedRanks> watched;
    watch(watched, config_.judge, "judging claims");
    JudgeAgreement agreement;
    JsonlLog log(folder_ + "/verdicts.jsonl", working_);
    const CachedWeights cached;  // the judge's stay as they are from picture to picture
    verdicts_ = judge_claims(config_,
                             *judge_,
                             claims_,
                             answers_,
                             prompts(),
                             vocabulary(config_),
                             log,
                             agreement,
                             observer_,
                             ranks_at(config_.judge));
    figures_["judge"] = agreement.to_json();
    if (const Json traffic = judge_->traffic(); !traffic.is_null()) figures_["judge_traffic"] = traffic;
    judge_.reset();  // training wants the memory
    lap("judge");
  }

  // Little work: every rank does all of it.
  void pair() {
    check_inputs("pairs");
    std::vector<Json> scores;
    const std::vector<ScoredPrompt> scored = score_answers(config_, answers_, claims_, verdicts_, scores);
    PairReport report;
    pairs_ = build_pairs(scored, config_.pairs, config_.seed, report);
    if (ranks_.is_first()) {
      std::vector<Json> rows;
      for (const PreferencePair& pair : pairs_) rows.push_back(pair.to_json());
      write_jsonl(folder_ + "/scores.jsonl", scores);
      write_jsonl(folder_ + "/pairs.jsonl", rows);
      write_json(folder_ + "/pair_report.json", report.to_json());
    }
    figures_["claims"] = claim_figures(claims_, scored);
    figures_["pairs"] = report.to_json();
    lap("pairs");
    if (!ranks_.is_first()) return;
    spdlog::info("{}: {} pairs of {} answers to {} pictures",
                 folder_,
                 report.pairs,
                 report.answers,
                 report.prompts);
  }

  void read_given_pairs() {
    if (!inputs_.pairs.empty()) {
      pair_file_.emplace(inputs_.pairs);
      pairs_ = pair_file_->pairs();
      return;
    }
    pairs_ = read_pairs(folder_ + "/pairs.jsonl", read_answers(folder_ + "/rollouts.jsonl", working_));
  }

  // What a training learns from: the pairs' words and pictures.
  Json pairs_trained_on() const {
    std::string key;
    for (const PreferencePair& pair : pairs_)
      key = content_key({key, pair.prompt_id, pair.question, pair.chosen, pair.rejected, pair.picture_key});
    return {{"count", pairs_.size()}, {"key", key}};
  }

  void train() {
    if (stage_inputs_) stage_inputs_->check("pairs_trained_on", pairs_trained_on());
    if (!pair_file_) prompts();  // made here, not by the threads that read pictures
    std::map<std::int64_t, std::string> keys;  // of the pictures that were sampled from
    for (const PreferencePair& pair : pairs_) keys[pair.index] = pair.picture_key;
    const PictureReader picture = [&](std::int64_t index) {
      return pair_file_ ? pair_file_->picture(index) : checked_picture(prompts(), index, keys.at(index)).image;
    };
    PreferenceOptions options;
    options.policy = inputs_.policy;
    options.tokenizer_path = inputs_.policy + "/tokenizer.model";
    options.ranks = &ranks_;
    options.distributed = config_.distributed;
    std::optional<LoadedModel> reference;
    if (!inputs_.reference.empty()) {
      reference = load_model(inputs_.reference);
      options.reference = &*reference;
    }
    const PreferenceResult trained = train_preferences(config_.preference,
                                                       *policy_,
                                                       pairs_,
                                                       picture,
                                                       config_.seed,
                                                       device_,
                                                       folder_,
                                                       observer_,
                                                       options);
    if (ranks_.is_first()) {
      save_model(policy_->model, options.tokenizer_path, folder_ + "/checkpoint");
      write_json(folder_ + "/train_report.json",
                 {{"pairs", pairs_.size()}, {"used", trained.pairs}, {"dropped", trained.dropped}});
    }
    figures_["preference"] = trained.to_json();
    lap("preference");
  }

  RlaifConfig config_;
  RoundInputs inputs_;
  std::string folder_;
  RoundObserver observer_;
  Communicator& ranks_;
  WorkingRanks working_;
  std::string device_;
  ThreadCount threads_;
  std::optional<StageClock> clock_;           // of rank 0
  std::optional<StageInputs> stage_inputs_;   // of rank 0
  std::optional<LoadedModel> policy_;
  std::string policy_hash_;
  std::unique_ptr<Judge> judge_;
  std::unique_ptr<Splitter> splitter_;
  std::optional<Prompts> prompts_;
  std::vector<PromptAnswers> answers_;
  std::vector<PromptClaims> claims_;
  std::vector<VerdictTable> verdicts_;
  std::vector<PreferencePair> pairs_;
  std::optional<PairFile> pair_file_;
  Json figures_ = Json::object();
};

}  // namespace

Json run_round(const RlaifConfig& config,
               const RoundInputs& inputs,
               const RoundObserver& observer,
               const std::string& last,
               Communicator* ranks) {
  Communicator alone{Communicator::Alone()};
  return Round(config, inputs, observer, ranks != nullptr ? *ranks : alone).run(last);
}

Json run_stage_alone(const RlaifConfig& config,
                     const RoundInputs& inputs,
                     const std::string& stage,
                     const RoundObserver& observer,
                     Communicator* ranks) {
  Communicator alone{Communicator::Alone()};
  return Round(config, inputs, observer, ranks != nullptr ? *ranks : alone).run_alone(stage);
}

}  // namespace pocketvlm
