#include "apps/rlaif_command_line.h"

#include <CLI/CLI.hpp>

#include "apps/command_line.h"

namespace pocketvlm {
namespace {

void add_config(CLI::App* command, CommandLine& line) {
  command->add_option("config", line.file, "loop.json")->required();
  command->add_option("--set", line.overrides, "a.b=c: change a field of the config; may be repeated")->allow_extra_args(false);
}

void add_json(CLI::App* command, CommandLine& line) {
  command->add_flag("--json", line.json, "print one JSON object on standard output");
}

void add_folder(CLI::App* command, CommandLine& line) {
  command->add_option("--folder", line.rlaif.folder, "of the round; its files are read and made there")->required();
  command->add_option("--round", line.rlaif.round, "1, 2 ...: which prompts and random streams; default: those of the folder, else 1")
      ->check(CLI::PositiveNumber);
}

}  // namespace

void add_rlaif_commands(CLI::App& app, CommandLine& line) {
  CLI::App* rlaif = app.add_subcommand("rlaif", "the alignment loop, and each of its stages alone");
  rlaif->require_subcommand(0, 1);
  rlaif->add_option("config", line.file, "loop.json: all rounds");
  rlaif->add_option("--set", line.overrides, "a.b=c: change a field of the config; may be repeated")->allow_extra_args(false);
  rlaif->add_option("--run", line.run_name, "name of the run's folder");
  rlaif->add_flag("--resume", line.resume, "continue");

  const auto stage = [&](const char* name, const char* help) {
    CLI::App* command = rlaif->add_subcommand(name, help);
    add_config(command, line);
    add_folder(command, line);
    add_json(command, line);
    return command;
  };
  stage("sample", "answers to the prompts: rollouts.jsonl");
  stage("split", "what the answers state: claims.jsonl");
  stage("judge", "what the judge says of it: verdicts.jsonl");
  stage("pairs", "better and worse answers: scores.jsonl, pairs.jsonl");
  stage("train", "preference training: checkpoint/")
      ->add_option("--pairs", line.rlaif.pairs, "JSONL of pairs with pictures of their own, as RLAIF-V's");
  CLI::App* best = stage("best", "ranks the answers of rollouts.jsonl by the policy's implicit reward: best.jsonl");
  best->add_option("--reference", line.rlaif.reference, "checkpoint that the policy was aligned from")->required();

  CLI::App* eval = rlaif->add_subcommand("eval", "a checkpoint under the loop's evaluation settings");
  add_config(eval, line);
  eval->add_option("--checkpoint", line.checkpoint, "checkpoint folder")->required();
  add_json(eval, line);

  CLI::App* agree = rlaif->add_subcommand("agree", "how far the judge says what is true, on claims that people wrote down");
  add_config(agree, line);
  agree->add_option("--claims", line.rlaif.claims, "JSONL of {image, claims: [{text, true}]}; paths are relative to it")->required();
  add_json(agree, line);

  CLI::App* import = rlaif->add_subcommand("import", "RLAIF-V's answer and judge rows into a round's folder");
  add_config(import, line);
  add_folder(import, line);
  import->add_option("--answers", line.rlaif.answers, "JSONL of answers")->required();
  import->add_option("--judged", line.rlaif.judged, "JSONL of judged claims");
  add_json(import, line);
  CLI::App* out = rlaif->add_subcommand("export", "a round's folder as RLAIF-V's rows");
  out->add_option("folder", line.file, "of the round")->required();
  out->add_option("--out", line.out, "folder")->required();
  CLI::App* view = rlaif->add_subcommand("view", "an HTML page to read a round's pairs; of a loop one a round");
  view->add_option("folder", line.file, "of the round, or of the loop")->required();
  view->add_option("--count", line.rlaif.pairs_shown, "pairs shown")->check(CLI::PositiveNumber);
  view->add_option("--out", line.out, "HTML file; default: <folder>/view.html");
  CLI::App* score = rlaif->add_subcommand("score", "CHAIR, Object-HalBench, POPE and AMBER figures of an annotated JSON file");
  score->add_option("file", line.file, "descriptions and questions with their truth (docs/alignment.md)")->required();
  add_json(score, line);
}

}  // namespace pocketvlm
