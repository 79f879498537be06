#include "apps/ablate.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>

#include "apps/ablation_table.h"
#include "base/files.h"
#include "base/log.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

/// Replaces {name} everywhere. Throws Error for a name that nothing is known of.
std::string filled(const std::string& text, const std::map<std::string, std::string>& values, const std::string& where) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t open = text.find('{', at), close = text.find('}', open);
    result += text.substr(at, open - at);
    if (close == std::string::npos) return result + (open == std::string::npos ? "" : text.substr(open));
    const std::string name = text.substr(open + 1, close - open - 1);
    const auto found = values.find(name);
    PV_CHECK(found != values.end(), "{}: \"{}\" names {{{}}}, which is neither an input nor out, variants, variant or seed", where, text, name);
    PV_CHECK(!found->second.empty(), "{}: the input \"{}\" has no value; give it with --set inputs.{}=VALUE", where, name, name);
    result += found->second;
    at = close + 1;
  }
  return result;
}

/// One run of a variant.
struct Run {
  std::string name;
  std::string folder;
  std::vector<std::vector<std::string>> before;
  std::vector<std::string> command;
  std::vector<std::string> resume;
  std::string result;  // empty: output.txt
};

std::vector<std::string> filled_all(const std::vector<std::string>& texts, const std::map<std::string, std::string>& values, const std::string& where) {
  std::vector<std::string> result;
  for (const std::string& text : texts) result.push_back(filled(text, values, where));
  return result;
}

Run plan_run(const AblationConfig& config, const AblationVariant& variant, int64_t seed, const std::string& out, const std::string& file) {
  Run run;
  run.name = config.seeds.size() > 1 ? fmt::format("{}-seed{}", variant.name, seed) : variant.name;
  run.folder = (fs::path(out) / run.name).string();
  std::map<std::string, std::string> values = config.inputs;
  values["out"] = run.folder;
  values["variants"] = out;
  values["variant"] = variant.name;
  values["seed"] = std::to_string(seed);
  const std::string where = fmt::format("{}: variant \"{}\"", file, variant.name);
  run.command = filled_all(config.command, values, where);
  for (const std::string& argument : filled_all(variant.arguments, values, where)) run.command.push_back(argument);
  for (const std::string& assignment : filled_all(variant.set, values, where)) {
    run.command.push_back("--set");
    run.command.push_back(assignment);
  }
  for (const auto& command : variant.before) run.before.push_back(filled_all(command, values, where));
  run.resume = filled_all(config.resume, values, where);
  run.result = filled(config.result, values, where);
  return run;
}

/// Programs of this build stand beside this one; others are looked for as a shell does.
std::string program_path(const std::string& name) {
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / name;
  return name.find('/') == std::string::npos && fs::exists(beside) ? beside.string() : name;
}

struct Finished {
  int status = 0;
  double seconds = 0.0;
  double peak_rss_mib = 0.0;
};

/// Runs a command with its output in files, appended.
Finished execute(const std::vector<std::string>& command, const std::string& output, const std::string& log) {
  std::vector<char*> arguments;
  std::vector<std::string> words = command;
  words[0] = program_path(words[0]);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  PV_CHECK(child >= 0, "{}: cannot be started: {}", words[0], std::strerror(errno));
  if (child == 0) {
    const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), err = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (out >= 0 && err >= 0 && ::dup2(out, 1) >= 0 && ::dup2(err, 2) >= 0) ::execvp(arguments[0], arguments.data());
    std::fprintf(stderr, "%s: %s\n", arguments[0], std::strerror(errno));
    ::_exit(127);
  }
  int status = 0;
  struct rusage usage {};
  while (::wait4(child, &status, 0, &usage) < 0) PV_CHECK(errno == EINTR, "{}: lost: {}", words[0], std::strerror(errno));
  Finished finished;
  finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  finished.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  finished.peak_rss_mib = static_cast<double>(usage.ru_maxrss) / 1024.0;
  return finished;
}

std::string last_lines(const std::string& path) {
  const std::string text = fs::exists(path) ? read_file(path) : "";
  const std::size_t from = text.size() > 600 ? text.find('\n', text.size() - 600) + 1 : 0;
  return text.substr(from);
}

/// The run's JSON, from its file or its output; {"run": ...} is added.
Json run_once(const Run& run) {
  make_folders(run.folder);
  const std::string output = run.folder + "/output.txt", log = run.folder + "/log.txt", begun = run.folder + "/begun";
  std::vector<std::string> command = run.command;
  if (fs::exists(begun)) command.insert(command.end(), run.resume.begin(), run.resume.end());
  write_file_atomic(begun, "");
  const auto checked = [&](const std::vector<std::string>& words) {
    spdlog::info("{}: {}", run.name, fmt::join(words, " "));
    const Finished finished = execute(words, output, log);
    PV_CHECK(finished.status == 0, "{}: `{}` ended with status {}; its log {} ends:\n{}", run.name, fmt::join(words, " "), finished.status, log,
             last_lines(log));
    return finished;
  };
  for (const auto& words : run.before) checked(words);
  const Finished finished = checked(command);
  const std::string& file = run.result.empty() ? output : run.result;
  Json result = read_json(file);
  PV_CHECK(result.is_object(), "{}: the result {} is no JSON object", run.name, file);
  result["run"] = {{"seconds", finished.seconds}, {"peak_rss_mib", finished.peak_rss_mib}};
  return result;
}

/// What stands at a path of keys and list places; null where it ends early.
std::optional<double> figure_at(const Json& result, const AblationMetric& metric, const std::string& run) {
  const Json* at = &result;
  for (std::size_t begin = 0; begin <= metric.path.size();) {
    const std::size_t end = std::min(metric.path.find('.', begin), metric.path.size());
    const std::string key = metric.path.substr(begin, end - begin);
    const bool place = at->is_array() && !key.empty() && key.find_first_not_of("0123456789") == std::string::npos && key.size() < 9;
    if (place && std::stoul(key) < at->size()) at = &(*at)[std::stoul(key)];
    else if (at->is_object() && at->contains(key)) at = &(*at)[key];
    else fail("{}: its result has no \"{}\" (metric \"{}\")", run, metric.path, metric.name);
    begin = end + 1;
  }
  if (at->is_null()) return std::nullopt;
  PV_CHECK(at->is_number(), "{}: \"{}\" (metric \"{}\") is {}, not a number", run, metric.path, metric.name, at->type_name());
  return at->get<double>() * metric.scale;
}

/// The result of a run, made now or before.
Json result_of(const Run& run) {
  const std::string path = run.folder + "/result.json";
  if (fs::exists(path)) {
    const Json kept = read_json(path);
    PV_CHECK(kept.is_object() && kept.value("command", Json()) == Json(run.command) && kept.contains("result"),
             "{}: made by another command than `{}`; choose another --out, or delete the folder {}", path, fmt::join(run.command, " "), run.folder);
    spdlog::info("{}: finished before", run.name);
    return kept["result"];
  }
  const Json result = run_once(run);
  write_json(path, {{"command", run.command}, {"result", result}});
  return result;
}

Json write_tables(const AblationConfig& config, const AblationFigures& figures, const std::string& out) {
  const Json table = ablation_json(config, figures);
  write_json(out + "/table.json", table);
  write_file_atomic(out + "/table.md", ablation_markdown(config, table));
  write_file_atomic(out + "/table.html", ablation_page(config, table));
  return table;
}

void check_names(const std::string& path, const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) PV_CHECK(seen.insert(name).second, "{}: \"{}\" is named twice", path, name);
}

}  // namespace

void AblationConfig::validate(const std::string& path) const {
  PV_CHECK(!command.empty() && !metrics.empty() && !variants.empty() && !seeds.empty(),
           "{}: command, metrics, variants and seeds need one entry at least", path);
  std::vector<std::string> columns, rows;
  for (const AblationMetric& metric : metrics) columns.push_back(metric.name);
  check_names(path + ".metrics", columns);
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const AblationVariant& variant = variants[i];
    const std::string where = fmt::format("{}.variants[{}]", path, i);
    const bool plain = !variant.name.empty() && variant.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == std::string::npos;
    PV_CHECK(plain, "{}.name: \"{}\" names a folder: letters, digits, - and _ alone", where, variant.name);
    rows.push_back(variant.name);
    for (const auto& [metric, value] : variant.paper) {
      const auto closest = closest_name(metric, columns);
      PV_CHECK(std::find(columns.begin(), columns.end(), metric) != columns.end(), "{}.paper: no metric is called \"{}\"{}", where, metric,
               closest ? fmt::format(", did you mean \"{}\"?", *closest) : "");
    }
    for (const auto& words : variant.before) PV_CHECK(!words.empty(), "{}.before: an empty command", where);
  }
  check_names(path + ".variants", rows);
}

void ablate(const CommandLine& line) {
  const auto config = load_config<AblationConfig>(line.file, line.overrides);
  // All commands are made before the first is run, so that a mistake in the last costs nothing.
  std::vector<std::pair<std::string, Run>> runs;
  for (const AblationVariant& variant : config.variants) {
    for (const int64_t seed : config.seeds) runs.emplace_back(variant.name, plan_run(config, variant, seed, line.out, line.file));
  }
  if (line.dry_run) {
    for (const auto& [variant, run] : runs) {
      for (const auto& words : run.before) fmt::print("{}: {}\n", run.name, fmt::join(words, " "));
      fmt::print("{}: {}\n", run.name, fmt::join(run.command, " "));
    }
    return;
  }
  make_folders(line.out);
  AblationFigures figures;
  Json table;
  for (const auto& [variant, run] : runs) {
    const Json result = result_of(run);
    for (const AblationMetric& metric : config.metrics) figures[variant][metric.name].push_back(figure_at(result, metric, run.name));
    table = write_tables(config, figures, line.out);
  }
  if (line.json) {
    std::fputs((table.dump() + "\n").c_str(), stdout);
  } else {
    std::fputs(ablation_markdown(config, table).c_str(), stdout);
  }
}

}  // namespace pocketvlm
