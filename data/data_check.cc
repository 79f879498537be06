#include "data/data_check.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>

#include "data/conversations.h"
#include "data/tar.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kMostListed = 100000;
constexpr std::int64_t kChunk =
    4096;  // samples whose findings are held before they are reported in order

std::unique_ptr<SampleSource> open_by_name(const std::string& path) {
  std::string extension = std::filesystem::path(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) {
    return std::tolower(c);
  });
  if (extension == ".json" || extension == ".jsonl")
    return std::make_unique<ConversationSource>(path);
  if (extension == ".tar") return std::make_unique<TarSource>(path);
  fail("{}: data check reads .json, .jsonl and .tar, not \"{}\"", path, extension);
}

/// What was found out about one sample.
struct Finding {
  std::string id;  // of a sample that is kept
  std::optional<DataCheckReport::Listed> damage;
};

Finding examine(const SampleSource& source, std::int64_t index) {
  try {
    const Sample sample = source.at(index);
    check_has_answer(sample, {source.name(), source.place(index)});
    return {sample.id, std::nullopt};
  } catch (const DamagedSample& e) {
    return {"", DataCheckReport::Listed{e.file(), e.place(), e.reason(), e.detail()}};
  }
}

/// Examines samples [begin, begin + findings.size()) on all threads.
void examine_chunk(const SampleSource& source,
                   std::int64_t begin,
                   std::vector<Finding>& findings,
                   int threads) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < findings.size(); i = next++) {
        findings[i] = examine(source, begin + static_cast<std::int64_t>(i));
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
  return json;
}

DataCheckReport check_data(const std::string& path, int threads) {
  const std::unique_ptr<SampleSource> source = open_by_name(path);
  DataCheckReport report;
  report.samples = source->size();
  std::unordered_set<std::string> ids;
  for (std::int64_t begin = 0; begin < report.samples; begin += kChunk) {
    std::vector<Finding> findings(
        static_cast<std::size_t>(std::min(kChunk, report.samples - begin)));
    examine_chunk(*source, begin, findings, std::max(1, threads));
    for (Finding& finding : findings) {
      if (!finding.damage) {
        ++report.kept;
        if (!ids.insert(std::move(finding.id)).second) ++report.duplicate_ids;
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
  return report;
}

}  // namespace pocketvlm
