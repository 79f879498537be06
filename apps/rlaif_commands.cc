#include "apps/rlaif_commands.h"

#include <cstdio>
#include <filesystem>
#include <map>

#include "base/config.h"
#include "base/files.h"
#include "base/log.h"
#include "rlaif/annotated_set.h"
#include "rlaif/best_of_n.h"
#include "rlaif/checkpoint_judge.h"
#include "rlaif/checkpoint_splitter.h"
#include "rlaif/claim_agreement.h"
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

std::int64_t round_of(const CommandLine& line) {
  return line.rlaif.round > 0 ? line.rlaif.round - 1 : read_round(line.rlaif.folder);
}

RoundInputs inputs_of(const CommandLine& line, const RlaifConfig& config) {
  RoundInputs inputs;
  inputs.policy = config.policy;
  inputs.judge = config.judge;
  inputs.splitter = config.splitter;
  inputs.round = round_of(line);
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
  check_round(line.rlaif.folder, round_of(line));
  const Prompts prompts(config, round_of(line));
  const std::vector<PromptAnswers> answers = read_answers(line.rlaif.folder + "/rollouts.jsonl");
  std::map<std::int64_t, std::string> keys;
  for (const PromptAnswers& prompt : answers) keys[prompt.index] = prompt.picture_key;
  const PictureReader picture = [&](std::int64_t index) { return checked_picture(prompts, index, keys.at(index)).image; };
  const auto ranked = rank_answers(config.preference, policy, reference, answers, picture, config.device);
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
  const Json figures = evaluate_checkpoint(*config.evaluation, line.checkpoint, config.device, &ranks);
  if (!ranks.is_first()) return;
  if (line.json) return print_json(figures);
  fmt::print("{}\n", figures.dump(2));
}

std::string percent(const Json& share) {
  return share.is_null() ? std::string("-") : fmt::format("{:.1f} %", 100 * share.get<double>());
}

void agree(const CommandLine& line) {
  const RlaifConfig config = config_of(line);
  const ThreadCount threads(config.threads);
  const std::unique_ptr<Splitter> splitter = make_splitter(config, config.splitter);
  const std::unique_ptr<Judge> judge = make_judge(config, config.judge);
  const Json figures = judge_claims_file(line.rlaif.claims, *splitter, *judge, config.judge_margin).to_json();
  if (line.json) return print_json(figures);
  fmt::print("judge            {}\n", judge->name());
  fmt::print("claims           {} about {} pictures\n", figures.at("claims").dump(), figures.at("pictures").dump());
  fmt::print("accuracy         {}\n", percent(figures.at("accuracy")));
  fmt::print("said yes         {}\n", percent(figures.at("said_yes")));
  fmt::print("on true claims   {} of {}\n", percent(figures.at("of_true")), figures.at("true_claims").dump());
  fmt::print("on false claims  {} of {}\n", percent(figures.at("of_false")), figures.at("false_claims").dump());
  fmt::print("p(yes) + p(no)   {:.3f} on average\n", figures.at("mean_coverage").get<double>());
  fmt::print("not read         {}\n", figures.at("problems").dump());
  fmt::print("pictures missing {}, with {} claims\n", figures.at("missing").size(), figures.at("not_asked").dump());
  for (const Json& one : figures.at("missing")) fmt::print("  {}\n", one.at("reason").get<std::string>());
}

void view(const CommandLine& line) {
  const std::string path = line.out.empty() ? line.file + "/view.html" : line.out;
  for (const std::string& round : rounds_of_loop(line.file)) {
    const std::string folder = line.file + "/" + round;
    if (fs::exists(folder + "/pairs.jsonl"))
      write_file_atomic(folder + "/view.html", view_page(folder, line.rlaif.pairs_shown));
  }
  write_file_atomic(path, view_page(line.file, line.rlaif.pairs_shown));
  spdlog::info("look at {}", path);
}

void export_rows(const CommandLine& line) {
  const std::string path = line.file + "/config.json";
  const auto config = read_config<RlaifConfig>(read_json(path), path);
  export_rlaifv(line.file, Prompts(config, read_round(line.file)), config, line.out);
}

void import_rows(const CommandLine& line) {
  const RlaifConfig config = config_of(line);
  const std::int64_t round = round_of(line);
  check_round(line.rlaif.folder, round);
  const Json report = import_rlaifv(line.rlaif.answers, line.rlaif.judged, Prompts(config, round), config, line.rlaif.folder);
  write_json(line.rlaif.folder + "/config.json", config_to_json(config));
  write_round(line.rlaif.folder, round);
  write_json(line.rlaif.folder + "/import_report.json", report);
  for (const Json& one : report.at("left_out")) {
    spdlog::warn("left out: prompt {} (\"{}\") with {} answers: {}",
                 one.at("index").get<std::int64_t>(),
                 one.at("prompt_id").get<std::string>(),
                 one.at("answers").get<std::int64_t>(),
                 one.at("reason").get<std::string>());
  }
  if (line.json) print_json(report);
}

}  // namespace

void rlaif(const CommandLine& line, Communicator& ranks) {
  const std::string name = line.command == "rlaif" ? "" : line.command.substr(6);
  if (name.empty()) loop(line, ranks);
  else if (name == "agree") agree(line);
  else if (name == "best") best(line);
  else if (name == "eval") eval(line, ranks);
  else if (name == "view") view(line);
  else if (name == "import") import_rows(line);
  else if (name == "export") export_rows(line);
  else if (name == "score") print_json(score_annotated_set(line.file));
  else stage(line, name, ranks);
}

}  // namespace pocketvlm
