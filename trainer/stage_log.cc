#include "trainer/stage_log.h"

#include <chrono>
#include <sstream>

#include "base/files.h"

namespace pocketvlm {
namespace {

double now_s() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

}  // namespace

StageLog::StageLog(const std::string& folder, std::int64_t bytes)
    : metrics_(folder + "/metrics.jsonl", bytes), events_(folder + "/events.out.tfevents.pocketvlm") {
  const std::string path = folder + "/metrics.jsonl";
  std::istringstream text(read_file(path));
  std::vector<Json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(parse_json(line, path));
  // When the lines were written is not recorded; how long after each other they were, is.
  const double now = now_s(), last = lines.empty() ? 0.0 : lines.back().value("seconds", 0.0);
  for (const Json& line : lines) add_event(line, now - last + line.value("seconds", 0.0));
}

void StageLog::append(const Json& line) {
  metrics_.append(line);
  add_event(line, now_s());
}

void StageLog::add_event(const Json& line, double wall_time) {
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& item : line.items()) {
    if (item.key() != "step" && item.value().is_number()) scalars.emplace_back(item.key(), item.value().get<double>());
  }
  if (!scalars.empty()) events_.append(line["step"].get<int64_t>(), wall_time, scalars);
}

}  // namespace pocketvlm
