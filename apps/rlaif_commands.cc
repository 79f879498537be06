#include "apps/rlaif_commands.h"

#include <cstdio>
#include <filesystem>

#include "base/config.h"
#include "base/files.h"
#include "base/log.h"
#include "rlaif/annotated_set.h"
#include "rlaif/best_of_n.h"
#include "rlaif/job_ranks.h"
#include "rlaif/loop.h"
#include "rlaif/rlaifv_rows.h"
#include "rlaif/round.h"
#include "rlaif/view.h"
#include "trainer/thread_count.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

RlaifConfig config_of(const CommandLine& line) { return load_config<RlaifConfig>(line.file, line.overrides); }

/// Results go to runs/<name>; an existing folder is continued only when asked to.
void loop(const CommandLine& line, Communicator& ranks) {
  PV_CHECK(!line.file.empty(), "rlaif: name a loop.json, or a stage (`pocketvlm rlaif --help` lists them)");
  const RlaifConfig config = config_of(line);
  const std::string folder = "runs/" + (line.run_name.empty() ? config.name : line.run_name);
  PV_CHECK(line.resume || !fs::exists(folder),
           "{}: exists; continue it with --resume, or choose another name with --run NAME",
           folder);
  ranks.barrier();  // all have looked before one writes
  run_rlaif(config, config.policy, config.judge, folder, {}, &ranks);
}

RoundInputs inputs_of(const CommandLine& line, const RlaifConfig& config) {
  RoundInputs inputs;
  inputs.policy = config.policy;
  inputs.judge = config.judge;
  inputs.splitter = config.splitter;
  inputs.round = line.rlaif.round - 1;
  inputs.folder = line.rlaif.folder;
  inputs.pairs = line.rlaif.pairs;
  return inputs;
}

void stage(const CommandLine& line, const std::string& name, Communicator& ranks) {
  const RlaifConfig config = config_of(line);
  const Json figures = run_stage_alone(config, inputs_of(line, config), name, {}, &ranks);
  if (!ranks.is_first()) return;
  if (line.json) return print_json(figures);
  fmt::print("{}\n", figures.dump(2));
}

void best(const CommandLine& line) {
  const RlaifConfig config = config_of(line);
  const ThreadCount threads(config.threads);
  LoadedModel policy = load_model(config.policy);
  LoadedModel reference = load_model(line.rlaif.reference);
  const Prompts prompts(config, line.rlaif.round - 1);
  const std::vector<PromptAnswers> answers = read_answers(line.rlaif.folder + "/rollouts.jsonl");
  const auto ranked = rank_answers(config.preference, policy, reference, answers, [&](std::int64_t index) {
    return prompts.at(index).image;
  });
  std::string lines;
  for (std::size_t i = 0; i < ranked.size(); ++i) {
    if (answers[i].answers.empty()) continue;
    Json rewards = Json::array();
    for (const auto& reward : ranked[i].rewards) rewards.push_back(reward ? Json(*reward) : Json(nullptr));
    const Answer& chosen = answers[i].answers[ranked[i].best];
    lines += Json{{"prompt_id", answers[i].id}, {"index", answers[i].index}, {"sample", chosen.sample}, {"text", chosen.text},
                  {"rewards", rewards}}
                 .dump(-1, ' ', false, Json::error_handler_t::replace) +
             "\n";
  }
  const std::string path = line.rlaif.folder + "/best.jsonl";
  write_file_atomic(path, lines);
  if (line.json) print_json({{"prompts", ranked.size()}, {"file", path}});
}

void eval(const CommandLine& line, Communicator& ranks) {
  const RlaifConfig config = config_of(line);
  PV_CHECK(config.evaluation.has_value(), "{}.evaluation: is null; say there what to evaluate on", line.file);
  const ThreadCount threads(config.threads);
  const WatchedRanks watched(ranks, config.distributed.timeout_s, "evaluating");
  const Json figures = evaluate_checkpoint(*config.evaluation, line.checkpoint, &ranks);
  if (!ranks.is_first()) return;
  if (line.json) return print_json(figures);
  fmt::print("{}\n", figures.dump(2));
}

void view(const CommandLine& line) {
  const std::string path = line.out.empty() ? line.file + "/view.html" : line.out;
  write_file_atomic(path, view_page(line.file, line.rlaif.pairs_shown));
  spdlog::info("look at {}", path);
}

void export_rows(const CommandLine& line) {
  const std::string path = line.file + "/config.json";
  const auto config = read_config<RlaifConfig>(read_json(path), path);
  export_rlaifv(line.file, Prompts(config, read_round(line.file)), config.policy, line.out);
}

void import_rows(const CommandLine& line) {
  const RlaifConfig config = config_of(line);
  import_rlaifv(line.rlaif.answers, line.rlaif.judged, Prompts(config, line.rlaif.round - 1), line.rlaif.folder);
  write_json(line.rlaif.folder + "/config.json", config_to_json(config));
  write_round(line.rlaif.folder, line.rlaif.round - 1);
}

}  // namespace

void rlaif(const CommandLine& line, Communicator& ranks) {
  const std::string name = line.command == "rlaif" ? "" : line.command.substr(6);
  if (name.empty()) loop(line, ranks);
  else if (name == "best") best(line);
  else if (name == "eval") eval(line, ranks);
  else if (name == "view") view(line);
  else if (name == "import") import_rows(line);
  else if (name == "export") export_rows(line);
  else if (name == "score") print_json(score_annotated_set(line.file));
  else stage(line, name, ranks);
}

}  // namespace pocketvlm
