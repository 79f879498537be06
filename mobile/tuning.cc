#include "mobile/tuning.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "base/log.h"
#include "mobile/cores.h"

namespace pocketvlm {
namespace {

// Differences below this are noise on a device that does other things, too.
constexpr double kClearlyFaster = 0.97;

// What a person waits for: a picture of one slice with its prompt, and a few sentences.
constexpr double kTypicalPromptTokens = 256;
constexpr double kTypicalAnswerTokens = 64;

double prompt_seconds(const Speeds& speeds) {
  return speeds.vision_ms_per_slice / 1000.0 + kTypicalPromptTokens / speeds.prefill_tps;
}
double decode_seconds(const Speeds& speeds) { return kTypicalAnswerTokens / speeds.decode_tps; }
double answer_seconds(const Speeds& speeds) {
  return prompt_seconds(speeds) + decode_seconds(speeds);
}

using Cost = double (*)(const Speeds&);

// A session with what was measured on it.
class Measurement {
 public:
  Measurement(const std::string& model, const std::string& mmproj, const SessionOptions& options)
      : session_(model, mmproj, options) {}
  void run(const TuneOptions& options, std::uint64_t seed) {
    const Speeds speeds = measure_speeds(session_, options.prompt_tokens, options.gen_tokens, seed);
    vision_.push_back(speeds.vision_ms_per_slice);
    prefill_.push_back(speeds.prefill_tps);
    decode_.push_back(speeds.decode_tps);
  }
  Speeds medians() const { return {median(vision_), median(prefill_), median(decode_)}; }

 private:
  Session session_;
  std::vector<double> vision_;
  std::vector<double> prefill_;
  std::vector<double> decode_;
};

class Search {
 public:
  Search(const std::string& model_path,
         const std::string& mmproj_path,
         const TuneOptions& options,
         const std::function<void(const std::string&, const Speeds&)>& on_trial)
      : model_path_(model_path), mmproj_path_(mmproj_path), options_(options), on_trial_(on_trial) {
    best_.context = options.prompt_tokens + options.gen_tokens;
  }

  void begin(SessionOptions start) {
    start.context = best_.context;
    best_ = std::move(start);
    best_speeds_ = measure(best_, best_).first;
    if (on_trial_) on_trial_("start", best_speeds_);
  }

  // Tries other values of one setting; keeps the one with the least cost.
  template <typename Value>
  void choose(const char* name,
              const std::vector<Value>& values,
              Cost cost,
              const std::function<void(SessionOptions&, const Value&)>& set) {
    SessionOptions winner = best_;
    double least = kClearlyFaster;
    for (const Value& value : values) {
      SessionOptions candidate = best_;
      set(candidate, value);
      const auto [usual, tried] = measure(best_, candidate);
      if (on_trial_) on_trial_(fmt::format("{} {}", name, value), tried);
      const double ratio = cost(tried) / cost(usual);
      if (ratio >= least) continue;
      least = ratio;
      winner = candidate;
      best_speeds_ = tried;
    }
    best_ = winner;
  }

  const SessionOptions& best() const { return best_; }
  const Speeds& best_speeds() const { return best_speeds_; }

 private:
  // Both in turn, since a device is not equally fast at all times: what counts is their ratio.
  std::pair<Speeds, Speeds> measure(const SessionOptions& first, const SessionOptions& second) {
    Measurement one(model_path_, mmproj_path_, first);
    Measurement two(model_path_, mmproj_path_, second);
    for (std::int64_t round = 0; round < options_.repeat; ++round) {
      one.run(options_, ++measurements_);
      two.run(options_, measurements_);
    }
    return {one.medians(), two.medians()};
  }

  const std::string& model_path_;
  const std::string& mmproj_path_;
  const TuneOptions& options_;
  const std::function<void(const std::string&, const Speeds&)>& on_trial_;
  SessionOptions best_;
  Speeds best_speeds_;
  std::uint64_t measurements_ = 0;
};

// The variants worth measuring: the plain loops are the oracle of the tests, and only run where
// nothing else does.
std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernels* table : available_kernels()) names.emplace_back(table->name);
  if (names.size() > 1) names.pop_back();
  return names;
}

// Fewer threads than cores: 1, 2, 4, ... and one less than all.
std::vector<int> thread_counts(int cores) {
  std::set<int> counts;
  for (int count = 1; count < cores; count *= 2) counts.insert(count);
  if (cores > 1) counts.insert(cores - 1);
  return {counts.rbegin(), counts.rend()};
}

std::vector<std::string> lines_with(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::vector<std::string> values;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    if (colon == line.npos || colon + 2 > line.size()) continue;
    values.push_back(line.substr(colon + 2));
  }
  return values;
}

}  // namespace

void Tuning::validate(const std::string& path) const {
  PV_CHECK(decode_threads <= threads,
           "{}: decode_threads is {}, but threads is only {}; run `pocketvlm-mobile tune` again",
           path,
           decode_threads,
           threads);
}

std::string processor_name() {
  const std::vector<std::string> names = lines_with("/proc/cpuinfo", "model name");
  if (!names.empty()) return names.front();
  // ARM kernels give each core's part number instead; a phone has two or three kinds.
  const std::vector<std::string> parts = lines_with("/proc/cpuinfo", "CPU part");
  std::string name;
  for (const std::string& part : std::set<std::string>(parts.begin(), parts.end()))
    name += (name.empty() ? "ARM " : " + ") + part;
  return name.empty() ? "unknown" : name;
}

std::string tuning_path_of(const std::string& model_path) { return model_path + ".tuning.json"; }

bool made_here(const Tuning& tuning) {
  return tuning.processor == processor_name() && tuning.cores == usable_cores();
}

void apply_tuning(const Tuning& tuning, SessionOptions& options) {
  if (options.kernels == "auto") options.kernels = tuning.kernels;
  if (options.threads == 0) {
    options.threads = static_cast<int>(tuning.threads);
    if (options.decode_threads == 0)
      options.decode_threads = static_cast<int>(tuning.decode_threads);
    if (options.affinity == "any") options.affinity = tuning.affinity;
  }
  options.pieces = {tuning.stream_kib * 1024, tuning.batch_kib * 1024};
  options.prefill_tokens = tuning.prefill_tokens;
}

std::string use_tuning_file(const std::string& given,
                            const std::string& model_path,
                            SessionOptions& options) {
  if (given == "none") return "";
  const bool automatic = given == "auto";
  const std::string path = automatic ? tuning_path_of(model_path) : given;
  if (automatic && !std::filesystem::exists(path)) return "";
  const auto tuning = load_config<Tuning>(path);
  if (!made_here(tuning)) {
    PV_CHECK(automatic,
             "{}: measured on {} with {} cores, but this is {} with {}; run `pocketvlm-mobile "
             "tune` here",
             path,
             tuning.processor,
             tuning.cores,
             processor_name(),
             usable_cores());
    spdlog::warn("{}: measured on another device, hence not used; run `pocketvlm-mobile tune` here",
                 path);
    return "";
  }
  apply_tuning(tuning, options);
  return path;
}

Tuning tune(const std::string& model_path,
            const std::string& mmproj_path,
            const TuneOptions& options,
            const std::function<void(const std::string&, const Speeds&)>& on_trial) {
  Search search(model_path, mmproj_path, options, on_trial);
  const std::vector<std::string> kernels = kernel_names();
  SessionOptions start;
  start.kernels = kernels.front();
  start.threads = usable_cores();
  start.decode_threads = start.threads;
  search.begin(start);
  search.choose<std::string>(
      "kernels",
      {kernels.begin() + 1, kernels.end()},
      answer_seconds,
      [](SessionOptions& session, const std::string& name) { session.kernels = name; });
  search.choose<int>("decode_threads",
                     thread_counts(start.threads),
                     decode_seconds,
                     [](SessionOptions& session, int count) { session.decode_threads = count; });
  search.choose<int>("threads",
                     thread_counts(start.threads),
                     prompt_seconds,
                     [](SessionOptions& session, int count) {
                       session.threads = count;
                       session.decode_threads = std::min(session.decode_threads, count);
                     });
  search.choose<std::string>(
      "affinity", {"fastest"}, answer_seconds, [](SessionOptions& session, const std::string& cores) {
        session.affinity = cores;
      });
  search.choose<std::int64_t>(
      "stream_kib",
      {64, 128, 256, 1024},
      decode_seconds,
      [](SessionOptions& session, std::int64_t kib) { session.pieces.stream = kib * 1024; });
  search.choose<std::int64_t>(
      "batch_kib",
      {64, 128, 256, 1024},
      prompt_seconds,
      [](SessionOptions& session, std::int64_t kib) { session.pieces.batch = kib * 1024; });
  std::vector<std::int64_t> passes = {32, 64, 128, 256};
  std::erase_if(passes, [&](std::int64_t tokens) { return tokens >= options.prompt_tokens; });
  search.choose<std::int64_t>(
      "prefill_tokens", passes, prompt_seconds, [](SessionOptions& session, std::int64_t tokens) {
        session.prefill_tokens = tokens;
      });
  const SessionOptions& best = search.best();
  Tuning tuning;
  tuning.processor = processor_name();
  tuning.cores = usable_cores();
  tuning.kernels = best.kernels;
  tuning.threads = best.threads;
  tuning.decode_threads = best.decode_threads;
  tuning.affinity = best.affinity;
  tuning.stream_kib = best.pieces.stream / 1024;
  tuning.batch_kib = best.pieces.batch / 1024;
  tuning.prefill_tokens = best.prefill_tokens;
  tuning.vision_ms_per_slice = search.best_speeds().vision_ms_per_slice;
  tuning.prefill_tps = search.best_speeds().prefill_tps;
  tuning.decode_tps = search.best_speeds().decode_tps;
  return tuning;
}

}  // namespace pocketvlm
