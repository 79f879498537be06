#include "data/data_check.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "base/random.h"
#include "data/conversations.h"
#include "data/packed_loader.h"
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

Finding examine(const SampleSource& source, std::int64_t index, const PromptEncoder* encoder) {
  Finding finding;
  try {
    const Sample sample = source.at(index);
    const SamplePlace place{source.name(), source.place(index)};
    check_has_answer(sample, place);
    finding.id = hash_id(sample.id);
    finding.images = static_cast<std::int32_t>(sample.chat.images.size());
    if (encoder != nullptr) {
      try {
        finding.tokens = static_cast<std::int32_t>(encode_sample(sample, *encoder).num_tokens());
      } catch (const Error& e) {
        place.damaged("cannot be encoded", e.what());
      }
    }
  } catch (const DamagedSample& e) {
    finding.damage = DataCheckReport::Listed{e.file(), e.place(), e.reason(), e.detail()};
  }
  return finding;
}

/// Examines samples [begin, begin + findings.size()) on all threads.
void examine_chunk(const SampleSource& source,
                   std::int64_t begin,
                   std::vector<Finding>& findings,
                   int threads,
                   const PromptEncoder* encoder) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < findings.size(); i = next++) {
        findings[i] = examine(source, begin + static_cast<std::int64_t>(i), encoder);
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
  json["images"] = images;
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
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<SampleSource> source = open_by_name(path);
  DataCheckReport report;
  report.samples = source->size();
  std::vector<std::uint64_t> ids;
  for (std::int64_t begin = 0; begin < report.samples; begin += kChunk) {
    std::vector<Finding> findings(
        static_cast<std::size_t>(std::min(kChunk, report.samples - begin)));
    examine_chunk(*source, begin, findings, std::max(1, threads), encoder);
    for (Finding& finding : findings) {
      if (!finding.damage) {
        ++report.kept;
        report.images += finding.images;
        ids.push_back(finding.id);
        if (encoder != nullptr) report.tokens.push_back(finding.tokens);
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
  std::sort(ids.begin(), ids.end());
  report.duplicate_ids = ids.end() - std::unique(ids.begin(), ids.end());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace pocketvlm
