#include "data/data_check.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>

#include "base/random.h"
#include "data/conversation_record.h"
#include "data/record_file.h"
#include "data/sample_reader.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMostListed = 100000;
constexpr std::int64_t kChunk =
    4096;  // samples whose findings are held before they are reported in order

SourceConfig source_by_name(const std::string& path) {
  std::string extension = std::filesystem::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) {
    return std::tolower(c);
  });
  SourceConfig source;
  source.path = path;
  if (extension == ".json" || extension == ".jsonl") source.kind = "conversations";
  else if (extension == ".tar") source.kind = "tar";
  else if (extension == ".txt") source.kind = "text";
  else fail("{}: data check reads .json, .jsonl, .tar and .txt, not \"{}\"", path, extension);
  return source;
}

/// What was found out about one sample.
struct Finding {
  std::uint64_t id = 0;  // hash of a kept sample's id: a million of them stay small
  std::int32_t tokens = 0;
  std::int32_t images = 0;
  std::optional<DataCheckReport::Listed> damage;
};

std::uint64_t hash_id(const std::string& id) {
  std::uint64_t hash = id.size();
  for (const char c : id) hash = mix_keys({hash, static_cast<unsigned char>(c)});
  return hash;
}

/// Samples by number, whatever examines them: for several threads at once.
using Examiner = std::function<Finding(std::int64_t index)>;

/// Without a model: records are read and pictures decoded.
Finding examine_record(const SampleSource& source, std::int64_t index) {
  Finding finding;
  const SamplePlace place{source.name(), source.place(index)};
  try {
    const Sample sample = source.at(index);
    check_has_answer(sample, place);
    finding.id = hash_id(sample.id);
    finding.images = static_cast<std::int32_t>(sample.chat.images.size());
  } catch (const DamagedSample& e) {
    finding.damage = DataCheckReport::Listed{e.file(), e.place(), e.reason(), e.detail()};
  }
  return finding;
}

/// As a stage's loader reads it.
Finding examine_sample(const SampleReader& reader, int source, std::int64_t index) {
  SampleOutcome outcome = reader.measure(0, {source, index});
  if (!outcome.skipped) outcome = reader.read(std::move(outcome));
  Finding finding;
  if (outcome.skipped) {
    const auto& [file, place, reason, kind] = *outcome.skipped;
    const std::string detail = reason.starts_with(kind + ": ") ? reason.substr(kind.size() + 2) : reason;
    finding.damage = DataCheckReport::Listed{file, place, kind, detail};
    return finding;
  }
  finding.id = hash_id(outcome.sample.id);
  finding.images = static_cast<std::int32_t>(outcome.images);
  finding.tokens = static_cast<std::int32_t>(outcome.sample.num_tokens());
  return finding;
}

/// Examines samples [begin, begin + findings.size()) on all threads.
void examine_chunk(const Examiner& examine,
                   std::int64_t begin,
                   std::vector<Finding>& findings,
                   int threads) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < findings.size(); i = next++) {
        findings[i] = examine(begin + static_cast<std::int64_t>(i));
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first_error) first_error = std::current_exception();
      next = findings.size();
    }
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  helpers.clear();
  if (first_error) std::rethrow_exception(first_error);
}

/// Adds what is found among the `size` samples of a source to the report.
void check_samples(const Examiner& examine,
                   std::int64_t size,
                   int threads,
                   bool with_tokens,
                   std::vector<std::uint64_t>& ids,
                   DataCheckReport& report) {
  report.samples += size;
  for (std::int64_t begin = 0; begin < size; begin += kChunk) {
    std::vector<Finding> findings(static_cast<std::size_t>(std::min(kChunk, size - begin)));
    examine_chunk(examine, begin, findings, std::max(1, threads));
    for (Finding& finding : findings) {
      if (!finding.damage) {
        ++report.kept;
        report.images += finding.images;
        ids.push_back(finding.id);
        if (with_tokens) report.tokens.push_back(finding.tokens);
        continue;
      }
      ++report.reasons[finding.damage->reason];
      if (report.listed.size() < kMostListed) {
        report.listed.push_back(std::move(*finding.damage));
      } else {
        ++report.unlisted;
      }
    }
  }
}

void count_duplicates(std::vector<std::uint64_t>& ids, DataCheckReport& report) {
  std::sort(ids.begin(), ids.end());
  report.duplicate_ids = ids.end() - std::unique(ids.begin(), ids.end());
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What `check` finds, with the samples that share an id and the time it took.
DataCheckReport timed_report(const std::function<void(std::vector<std::uint64_t>& ids, DataCheckReport&)>& check) {
  const auto start = std::chrono::steady_clock::now();
  DataCheckReport report;
  std::vector<std::uint64_t> ids;
  check(ids, report);
  count_duplicates(ids, report);
  report.seconds = seconds_since(start);
  return report;
}

/// The sources as a stage's loader sees them.
DataCheckReport check_open_sources(const SampleReader::Sources& sources,
                                   const LoaderConfig& config,
                                   int threads,
                                   const PromptEncoder& encoder) {
  return timed_report([&](std::vector<std::uint64_t>& ids, DataCheckReport& report) {
    const SampleReader reader(sources, encoder, config);
    for (int source = 0; source < static_cast<int>(sources.size()); ++source) {
      const std::int64_t size = sources[static_cast<std::size_t>(source)]->size();
      if (size == SampleSource::kEndless) {
        ++report.endless_sources;
        continue;
      }
      check_samples([&](std::int64_t index) { return examine_sample(reader, source, index); },
                    size,
                    threads,
                    /*with_tokens=*/true,
                    ids,
                    report);
    }
  });
}

}  // namespace

Json DataCheckReport::to_json() const {
  Json json;
  json["samples"] = samples;
  json["kept"] = kept;
  json["skipped"] = samples - kept;
  json["reasons"] = Json::object();
  for (const auto& [reason, count] : reasons) json["reasons"][reason] = count;
  json["listed"] = Json::array();
  for (const Listed& entry : listed) {
    json["listed"].push_back({{"file", printable(entry.file, 4096)},
                              {"place", entry.place},
                              {"reason", entry.reason},
                              {"detail", entry.detail}});
  }
  json["unlisted"] = unlisted;
  json["duplicate_ids"] = duplicate_ids;
  json["images"] = images;
  if (endless_sources > 0) json["endless_sources"] = endless_sources;
  json["seconds"] = seconds;
  if (!tokens.empty()) json["tokens"] = length_figures(tokens);
  return json;
}

Json length_figures(std::vector<std::int32_t> lengths) {
  std::sort(lengths.begin(), lengths.end());
  std::int64_t sum = 0;
  for (const std::int32_t length : lengths) sum += length;
  const auto at = [&](double part) {
    return lengths.empty() ? 0 : lengths[static_cast<std::size_t>(part * static_cast<double>(lengths.size() - 1))];
  };
  const auto count = static_cast<double>(std::max<std::size_t>(1, lengths.size()));
  return {{"samples", lengths.size()},
          {"sum", sum},
          {"mean", static_cast<double>(sum) / count},
          {"median", at(0.5)},
          {"p95", at(0.95)},
          {"p99", at(0.99)},
          {"longest", at(1.0)}};
}

DataCheckReport check_data(const std::string& path, int threads, const PromptEncoder* encoder) {
  const SourceConfig source = source_by_name(path);
  SampleReader::Sources sources;
  if (encoder != nullptr) {
    LoaderConfig unlimited;
    unlimited.max_tokens = std::numeric_limits<std::int64_t>::max();
    sources.push_back(open_files(source, decode_options(encoder->image())));
    return check_open_sources(sources, unlimited, threads, *encoder);
  }
  return timed_report([&](std::vector<std::uint64_t>& ids, DataCheckReport& report) {
    const auto open = open_files(source, {});
    check_samples([&](std::int64_t index) { return examine_record(*open, index); },
                  open->size(),
                  threads,
                  /*with_tokens=*/false,
                  ids,
                  report);
  });
}

DataCheckReport check_sources(const LoaderConfig& config, int threads, const PromptEncoder& encoder) {
  config.validate("data");
  SampleReader::Sources sources;
  for (const SourceConfig& source : config.sources) {
    sources.push_back(open_source(source, decode_options(encoder.image())));
  }
  return check_open_sources(sources, config, threads, encoder);
}

}  // namespace pocketvlm
