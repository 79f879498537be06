#include "rlaif/loop.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "model/checkpoint.h"
#include "rlaif/job_ranks.h"
#include "rlaif/round.h"
#include "trainer/evaluation.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

// Share of right yes/no answers, mean over the three kinds of negatives.
double pope_accuracy_of(const Json& figures) {
  double accuracy = 0;
  for (const char* kind : {"random", "popular", "adversarial"})
    accuracy += figures.at("pope").at(kind).at("accuracy").get<double>();
  return accuracy / 3;
}

// CHAIR_i + POPE error: what evaluation wants small.
double hallucination_of(const Json& figures) { return figures.at("chair_i").get<double>() + 1 - pope_accuracy_of(figures); }

double recall_of(const Json& figures) { return figures.at("object_recall").get<double>(); }

// What decides the loop; rounds check their own stages.
Json deciding_fields(const RlaifConfig& config) {
  Json json = config_to_json(config);
  for (const char* name : {"name", "policy", "threads", "rounds", "distributed"}) json.erase(name);
  json["preference"].erase("checkpoint_every");
  return json;
}

void copy_checkpoint(const std::string& from, const std::string& to) {
  const std::string temporary = to + ".tmp";
  fs::remove_all(temporary);
  fs::copy(from, temporary, fs::copy_options::recursive);
  fs::remove_all(to);
  fs::rename(temporary, to);
}

class Loop {
 public:
  Loop(const RlaifConfig& config,
       const std::string& policy,
       const std::string& judge,
       const std::string& folder,
       const RoundObserver& observer,
       Communicator& ranks)
      : config_(config),
        first_(policy),
        judge_(judge),
        folder_(folder),
        observer_(observer),
        ranks_(ranks),
        working_(working_ranks(ranks)) {
    if (!config.evaluation) return;
    check_evaluation();
  }

  Json run() {
    const std::string result_path = folder_ + "/result.json";
    const Json before = told_by_first(working_, [&] {
      check_same_loop();
      return fs::exists(result_path) ? read_json(result_path) : Json();
    });
    if (!before.is_null() && static_cast<std::int64_t>(before.at("rounds").size()) >= config_.rounds) return before;
    std::string policy = first_;
    Json rounds = Json::array();
    for (std::int64_t round = 0; round < config_.rounds; ++round) {
      if (ranks_.is_first()) spdlog::info("alignment: round {} of {}", round + 1, config_.rounds);
      const Json result = run_one(round, policy);
      const Json choice = choose(round, policy);
      policy = choice.at("chosen").get<std::string>();
      rounds.push_back({{"result", result}, {"choice", choice}});
    }
    Json result = rounds.back().at("result");
    result["name"] = config_.name;
    result["checkpoint"] = folder_ + "/checkpoint";
    if (before_) result["before"] = *before_;
    result["rounds"] = std::move(rounds);
    if (ranks_.is_first()) {
      copy_checkpoint(policy, folder_ + "/checkpoint");
      write_json(result_path, result);
    }
    ranks_.barrier();
    return result;
  }

 private:
  std::string round_folder(std::int64_t round) const {
    return fmt::format("{}/round-{}", folder_, round + 1);
  }

  void check_evaluation() {
    const LoopEvaluationConfig& evaluation = *config_.evaluation;
    PV_CHECK(!evaluation.folder.empty() || evaluation.source.kind == "scenes",
             "evaluation.source.kind: \"{}\" does not know what its pictures hold; use scenes, or "
             "evaluation.folder",
             evaluation.source.kind);
  }

  void check_same_loop() const {
    make_folders(folder_);
    const std::string path = folder_ + "/loop.json";
    const Json now = deciding_fields(config_);
    if (!fs::exists(path)) {
      PV_CHECK(!fs::exists(folder_ + "/inputs.json"),
               "{}: holds a single round; choose another folder for a loop of several",
               folder_);
      return write_json(path, now);
    }
    const Json changes = Json::diff(read_json(path), now);
    PV_CHECK(changes.empty(),
             "{}: holds a loop with other settings (\"{}\" differs); delete the folder, or choose "
             "another one",
             folder_,
             changes.empty() ? "" : changes[0]["path"].get<std::string>().substr(1));
  }

  Json run_one(std::int64_t round, const std::string& policy) {
    RoundInputs inputs;
    inputs.policy = policy;
    inputs.judge = judge_;
    inputs.splitter = config_.splitter;
    if (config_.reference == "first" && round > 0) inputs.reference = first_;
    inputs.round = round;
    inputs.folder = round_folder(round);
    RoundObserver told;
    if (observer_) {
      told = [this, round](const std::string& stage, std::int64_t done) {
        observer_(round == 0 ? stage : fmt::format("{}/{}", round + 1, stage), done);
      };
    }
    return run_round(config_, inputs, told, "train", &ranks_);
  }

  std::vector<Candidate> candidates_of(std::int64_t round, const std::string& policy) const {
    const std::string folder = round_folder(round);
    std::vector<Candidate> candidates = {{policy, 0, nullptr}};
    std::vector<std::string> kept;
    if (fs::exists(folder + "/candidates")) {
      for (const auto& entry : fs::directory_iterator(folder + "/candidates"))
        kept.push_back(entry.path().string());
    }
    std::sort(kept.begin(), kept.end());
    for (const std::string& path : kept)
      candidates.push_back({path, std::stoll(path.substr(path.rfind('-') + 1)), nullptr});
    const Json result = read_json(folder + "/result.json");
    candidates.push_back({folder + "/checkpoint",
                          result.at("preference").at("steps").get<std::int64_t>(),
                          nullptr});
    return candidates;
  }

  // Figures are kept by the candidate's place: a line each, made again from the first missing one on.
  void measure(std::int64_t round, std::vector<Candidate>& candidates) {
    const WatchedRanks watched(ranks_, config_.distributed.timeout_s, "evaluating checkpoints");
    JsonlLog log(round_folder(round) + "/evaluation.jsonl", working_);
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      Candidate& candidate = candidates[i];
      if (i < log.rows().size() && log.rows()[i].at("checkpoint") == candidate.checkpoint) {
        candidate.figures = log.rows()[i].at("figures");
        continue;
      }
      if (i < log.rows().size()) log.keep(i);
      candidate.figures = i == 0 && known_ ? *known_
                                           : evaluate_checkpoint(*config_.evaluation, candidate.checkpoint, config_.device, &ranks_);
      log.append({{{"checkpoint", candidate.checkpoint},
                   {"steps", candidate.steps},
                   {"figures", candidate.figures}}});
      if (observer_)
        observer_(round == 0 ? "evaluate" : fmt::format("{}/evaluate", round + 1),
                  static_cast<std::int64_t>(i + 1));
    }
  }

  Json choose(std::int64_t round, const std::string& policy) {
    std::vector<Candidate> candidates = candidates_of(round, policy);
    if (!config_.evaluation) {
      return {{"chosen", candidates.back().checkpoint},
              {"steps", candidates.back().steps},
              {"why", "the last; no evaluation is set"}};
    }
    measure(round, candidates);
    if (!before_) before_ = candidates.front().figures;
    const double recall = recall_of(*before_);
    const std::size_t best =
        choose_candidate(candidates, recall, config_.evaluation->largest_recall_loss);
    known_ = candidates[best].figures;
    Json table = Json::array();
    for (const Candidate& candidate : candidates) {
      table.push_back({{"checkpoint", candidate.checkpoint},
                       {"steps", candidate.steps},
                       {"hallucination", hallucination_of(candidate.figures)},
                       {"chair_i", candidate.figures.at("chair_i")},
                       {"pope_error", 1 - pope_accuracy_of(candidate.figures)},
                       {"object_recall", recall_of(candidate.figures)},
                       {"mean_answer_words", candidate.figures.at("mean_answer_words")}});
    }
    const Json choice = {
        {"chosen", candidates[best].checkpoint},
        {"steps", candidates[best].steps},
        {"why",
         fmt::format("smallest CHAIR_i + POPE error among candidates with a recall of at least {:.3f}",
                     recall - config_.evaluation->largest_recall_loss)},
        {"figures", candidates[best].figures},
        {"candidates", table}};
    if (!ranks_.is_first()) return choice;
    write_json(round_folder(round) + "/choice.json", choice);
    spdlog::info("alignment: round {}: chosen {} after {} steps, CHAIR_i {:.3f}, recall {:.3f}",
                 round + 1,
                 candidates[best].checkpoint,
                 candidates[best].steps,
                 known_->at("chair_i").get<double>(),
                 recall_of(*known_));
    return choice;
  }

  const RlaifConfig& config_;
  std::string first_, judge_, folder_;
  const RoundObserver& observer_;
  Communicator& ranks_;
  WorkingRanks working_;
  std::optional<Json> before_;  // figures of the loop's first policy
  std::optional<Json> known_;   // figures of the last choice
};

}  // namespace

Json run_rlaif(const RlaifConfig& config,
               const std::string& policy_folder,
               const std::string& judge_folder,
               const std::string& folder,
               const RoundObserver& observer,
               Communicator* ranks) {
  Communicator alone{Communicator::Alone()};
  if (config.rounds > 1 || config.evaluation)
    return Loop(config, policy_folder, judge_folder, folder, observer, ranks != nullptr ? *ranks : alone).run();
  PV_CHECK(config.preference.keep_every == 0,
           "preference.keep_every: kept checkpoints are chosen from by `evaluation`, which is null; "
           "set one of the two");
  RoundInputs inputs;
  inputs.policy = policy_folder;
  inputs.judge = judge_folder;
  inputs.splitter = config.splitter;
  inputs.folder = folder;
  return run_round(config, inputs, observer, "train", ranks);
}

Json evaluate_checkpoint(const LoopEvaluationConfig& config,
                         const std::string& checkpoint,
                         const std::string& device,
                         Communicator* ranks) {
  LoadedModel model = load_model(checkpoint);
  model.model->to(torch::Device(device_of_rank(device, ranks)));
  if (!config.folder.empty()) {
    const std::vector<EvalItem> items = eval_items(config.folder);
    return evaluate(model, items, vocabulary_of_items(items), config.settings, ranks).to_json();
  }
  const SceneSource source(config.source.scenes, config.source.seed);
  return evaluate(model,
                  eval_items(source, config.count),
                  scene_vocabulary(config.source.scenes),
                  config.settings,
                  ranks)
      .to_json();
}

std::size_t choose_candidate(const std::vector<Candidate>& candidates,
                             double first_recall,
                             double largest_recall_loss) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (recall_of(candidates[i].figures) < first_recall - largest_recall_loss) continue;
    if (!best || hallucination_of(candidates[i].figures) < hallucination_of(candidates[*best].figures))
      best = i;
  }
  return best.value_or(0);
}

}  // namespace pocketvlm
