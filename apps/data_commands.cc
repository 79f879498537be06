#include "apps/data_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "apps/data_check_page.h"
#include "apps/named_model.h"
#include "base/files.h"
#include "base/json.h"
#include "data/data_check.h"
#include "data/ocr/ocr_writer.h"
#include "data/scenes/scene_source.h"
#include "trainer/stage_config.h"

namespace pocketvlm {
namespace {

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

int threads_of(const CommandLine& line) {
  if (line.threads > 0) return static_cast<int>(line.threads);
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

/// A file of data is a list or lines; a stage's config is one object.
bool is_stage(const std::string& path) {
  if (!path.ends_with(".json") || !std::filesystem::is_regular_file(path)) return false;
  std::ifstream file(path);
  char first = 0;
  file >> first;
  return first == '{';
}

DataCheckReport check_stage(const CommandLine& line) {
  const auto stage = load_config<StageConfig>(line.file, line.overrides);
  const auto beside = [&](const char* name) { return (std::filesystem::path(stage.init_from) / name).string(); };
  const bool has_checkpoint = !stage.init_from.empty() && std::filesystem::exists(beside("config.json"));
  PV_CHECK(has_checkpoint || (!line.model.empty() && !line.tokenizer.empty()),
           "{}.init_from: {} is no checkpoint folder; name the model by --model and --tokenizer",
           line.file,
           stage.init_from.empty() ? "empty, which" : stage.init_from);
  const ModelConfig model = named_model(line.model.empty() ? stage.init_from : line.model);
  const Tokenizer tokenizer = Tokenizer::load(line.tokenizer.empty() ? beside("tokenizer.model") : line.tokenizer);
  const PromptEncoder encoder(tokenizer, stage_prompt(stage.input, model.prompt), stage_image(stage.input, model.image));
  return check_sources(stage.data, threads_of(line), encoder);
}

DataCheckReport check_files(const CommandLine& line) {
  PV_CHECK(line.tokenizer.empty() == line.model.empty(),
           "data check: lengths in tokens need both --tokenizer and --model; give the other one too");
  PV_CHECK(line.overrides.empty(), "--set: changes a field of a stage's config; {} is data", line.file);
  if (line.model.empty()) return check_data(line.file, threads_of(line));
  const ModelConfig model = named_model(line.model);
  const Tokenizer tokenizer = Tokenizer::load(line.tokenizer);
  const PromptEncoder encoder(tokenizer, model.prompt, model.image);
  return check_data(line.file, threads_of(line), &encoder);
}

}  // namespace

void data_check(const CommandLine& line) {
  const DataCheckReport report = is_stage(line.file) ? check_stage(line) : check_files(line);
  if (!line.html.empty()) write_file_atomic(line.html, data_check_page(line.file, report));
  if (line.json) return print_json(report.to_json());
  fmt::print("{} samples, {} kept, {} skipped\n", report.samples, report.kept, report.skipped());
  if (report.endless_sources > 0) fmt::print("{} sources of drawn scenes: nothing to check\n", report.endless_sources);
  for (const auto& [reason, count] : report.reasons) fmt::print("  {:>8}  {}\n", count, reason);
  for (const auto& item : report.listed) fmt::print("{}: {}: {}\n", item.file, item.place, item.reason);
}

void data_scenes(const CommandLine& line) {
  ScenesConfig config;
  config.sprites = line.sprites;
  config.tasks = {{"caption", 1}, {"detailed", 1}, {"vqa", 1}, {"counting", 1}, {"position", 1}, {"ocr", 1}, {"yes_no", 1}, {"chat", 1}};
  config.widths = {224, 336, 448};
  config.heights = {224, 252, 448};
  Json json = config_to_json(config);
  if (!line.languages.empty()) {
    json["languages"] = Json::object();
    for (const std::string& language : line.languages) json["languages"][language] = 1.0;
  }
  for (const std::string& assignment : line.overrides) apply_override(json, assignment);
  const SceneSource source(read_config<ScenesConfig>(json, "scenes"), line.seed);
  write_scenes(source, line.count, line.out, line.tar);
  if (line.json) print_json({{"samples", line.count}, {"folder", line.out}});
}

void data_ocr(const CommandLine& line) {
  OcrConfig config;
  Json json = config_to_json(config);
  if (!line.text_file.empty()) json["text"] = line.text_file;
  if (!line.photos.empty()) json["photo_folder"] = line.photos;
  if (!line.fonts.empty()) json["fonts"] = line.fonts;
  for (const std::string& assignment : line.overrides) apply_override(json, assignment);
  const OcrPainter painter(read_config<OcrConfig>(json, "ocr"), line.seed);
  write_ocr(painter, line.seed, {line.out, line.count, line.tar, threads_of(line)});
  const Json lines = unused_lines_json(painter.text());
  if (line.json) return print_json({{"samples", line.count}, {"folder", line.out}, {"lines", lines}});
  fmt::print("{} pictures in {}; of the text, {} lines are drawn and {} left out\n", line.count, line.out, lines["drawn"].dump(), lines["left_out"].dump());
  for (const auto& [reason, count] : lines["reasons"].items()) fmt::print("  {:>8}  {}\n", count.get<std::int64_t>(), reason);
}

}  // namespace pocketvlm
