#include "rlaif/reference.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "rlaif/content_key.h"

namespace pocketvlm {
namespace {

std::int64_t num_targets(const EncodedSample& sample) {
  return std::count(sample.chat.is_target.begin(), sample.chat.is_target.end(), 1);
}

class ReferenceRun {
 public:
  ReferenceRun(const PreferenceConfig& config,
               LoadedModel& model,
               const std::vector<PreferencePair>& pairs,
               const PictureReader& picture,
               torch::Device device,
               const WorkingRanks& ranks,
               const std::string& cache)
      : config_(config),
        model_(model),
        pairs_(pairs),
        picture_(picture),
        device_(device),
        ranks_(ranks),
        hash_(weights_hash(*model.model, {"*"})) {
    if (!cache.empty()) read_cache(cache);
  }

  // By stretches of batch_pairs; a stretch that is not whole in the file is made again whole.
  std::vector<Reference> run(JsonlLog& log, const RoundObserver& observer) {
    const auto stretch = static_cast<std::size_t>(config_.batch_pairs);
    std::vector<Reference> references = read(log, stretch);
    std::optional<Progress> progress;
    if (ranks_.is_first()) {
      progress.emplace("reference: pairs",
                       static_cast<std::int64_t>(pairs_.size()),
                       static_cast<std::int64_t>(references.size()));
    }
    while (references.size() < pairs_.size()) {
      const WorkTurn turn = turn_of(ranks_, references.size(), pairs_.size(), stretch);
      const std::vector<Json> rows = gather_rows(ranks_, compute(turn.own_begin, turn.own_end));
      for (const Json& row : rows) references.push_back(from_row(row));
      log.append(rows);
      if (progress) progress->update(static_cast<std::int64_t>(turn.end));
      if (observer) observer("reference", static_cast<std::int64_t>(turn.end));
    }
    if (progress) progress->finish();
    for (const Json& row : log.rows()) {
      if (is_live() || row.contains("dropped")) continue;
      ++(cache_.count(row.at("key").get<std::string>()) != 0 ? counts_.from_cache : counts_.computed);
    }
    return references;
  }

  const ReferenceCounts& counts() const { return counts_; }

 private:
  bool is_live() const { return config_.reference == "live"; }

  void read_cache(const std::string& folder) {
    const std::string pairs = folder + "/reference.jsonl", mismatched = folder + "/reference-kl.jsonl";
    const Json there = told_by_first(ranks_, [&] { return Json(std::filesystem::exists(pairs)); });
    PV_CHECK(there.get<bool>(), "preference.reference_cache: {} is not there", pairs);
    read_cache_file(pairs);
    if (told_by_first(ranks_, [&] { return Json(std::filesystem::exists(mismatched)); }).get<bool>()) read_cache_file(mismatched);
  }

  void read_cache_file(const std::string& path) {
    const std::vector<Json> rows = told_by_first(ranks_, [&] { return Json(read_jsonl(path)); });
    for (std::size_t i = 0; i < rows.size(); ++i) {
      try {
        if (!rows[i].contains("dropped") && rows[i].contains("chosen_logps"))
          cache_.emplace(rows[i].at("key").get<std::string>(), from_row(rows[i]));
      } catch (const Json::exception& error) {
        fail("preference.reference_cache: {}:{}: {}", path, i + 1, error.what());
      }
    }
  }

  // What a pair's reference depends on, and why there is none; the picture is read once for both.
  struct Look {
    std::string key;
    std::string obstacle;  // empty: the pair can be trained on
    std::int64_t chosen_tokens = 0, rejected_tokens = 0;  // that an answer consists of
  };

  Look look_at(const PreferencePair& pair) const {
    Look look;
    Image image;
    try {
      image = picture_(pair.index);
      // Lengths need no pixels.
      const EncodedPair encoded = encode_pair(pair, Image::outline(image.width, image.height), *model_.encoder);
      const std::int64_t longest =
          std::max(encoded.chosen.num_tokens(), encoded.rejected.num_tokens());
      look.chosen_tokens = num_targets(encoded.chosen);
      look.rejected_tokens = num_targets(encoded.rejected);
      if (longest > model_.config.language.max_positions)
        look.obstacle = "longer than language.max_positions";
      if (!pair.single && pair.chosen == pair.rejected) look.obstacle = "chosen and rejected are equal";
    } catch (const Error& error) {
      look.obstacle = error.what();
    }
    look.key = content_key({hash_,
                            fmt::format("{}{} {} {} {} {} {}x{}",
                                        is_live() ? "live " : "",
                                        config_.compute_dtype,
                                        config_.share_prompt,
                                        config_.changed_token_weight,
                                        config_.mean_over_tokens,
                                        config_.length_tail_weight,
                                        image.width,
                                        image.height),
                            config_to_json(model_.encoder->prompt()).dump() +
                                config_to_json(model_.encoder->image()).dump(),
                            pair.question,
                            pair.chosen,
                            pair.rejected,
                            {reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size()}});
    return look;
  }

  std::vector<Json> compute(std::size_t begin, std::size_t end) {
    std::vector<Reference> references(end - begin);
    std::vector<std::size_t> fitting;
    std::vector<std::string> keys;
    for (std::size_t i = begin; i < end; ++i) {
      Look look = look_at(pairs_[i]);
      Reference& reference = references[i - begin];
      const auto known = cache_.find(look.key);
      keys.push_back(std::move(look.key));
      reference.dropped = std::move(look.obstacle);
      if (!reference.dropped.empty()) continue;
      if (known != cache_.end()) reference = known->second;
      else if (is_live()) reference = {0, 0, look.chosen_tokens, look.rejected_tokens, ""};
      else fitting.push_back(i);
    }
    const at::NoGradGuard no_grad;
    const ComputeDtype guard(config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
    for (const PairPack& pack : make_packs(pairs_, fitting, picture_, *model_.encoder, config_)) {
      const PackLogProbs log_probs = pack_log_probs(model_.model, pack, config_, device_);
      const torch::Tensor sums = log_probs.sums.to(torch::kCPU).contiguous();
      const torch::Tensor tokens =
          log_probs.tokens.to(torch::kCPU, torch::kInt64).contiguous();
      const float* value = sums.data_ptr<float>();
      const std::int64_t* count = tokens.data_ptr<std::int64_t>();
      for (std::size_t row = 0; row < pack.pairs.size(); ++row) {
        references[pack.pairs[row] - begin] = {
            value[2 * row], value[2 * row + 1], count[2 * row], count[2 * row + 1], ""};
      }
    }
    std::vector<Json> rows;
    for (std::size_t i = 0; i < references.size(); ++i)
      rows.push_back(to_row(keys[i], references[i]));
    return rows;
  }

  Json to_row(const std::string& key, const Reference& reference) const {
    if (!reference.dropped.empty()) return {{"key", key}, {"dropped", reference.dropped}};
    Json row = {{"key", key},
                {"chosen_tokens", reference.chosen_tokens},
                {"rejected_tokens", reference.rejected_tokens}};
    if (is_live()) return row;
    row["chosen_logps"] = reference.chosen;
    row["rejected_logps"] = reference.rejected;
    return row;
  }

  static Reference from_row(const Json& row) {
    if (row.contains("dropped")) return {0, 0, 0, 0, row.at("dropped").get<std::string>()};
    const auto sum = [&](const char* name) { return row.contains(name) ? static_cast<float>(number_of(row.at(name))) : 0.0F; };
    return {sum("chosen_logps"),
            sum("rejected_logps"),
            row.at("chosen_tokens").get<std::int64_t>(),
            row.at("rejected_tokens").get<std::int64_t>(),
            ""};
  }

  // Rows that were made from the same weights, texts and pictures; from the first other one on,
  // everything is made again.
  std::vector<Reference> read(JsonlLog& log, std::size_t stretch) const {
    std::vector<Reference> references;
    const std::vector<Json>& rows = log.rows();
    try {
      while (references.size() < std::min(rows.size(), pairs_.size())) {
        const Json& row = rows[references.size()];
        const PreferencePair& pair = pairs_[references.size()];
        if (row.at("key").get<std::string>() != look_at(pair).key) break;
        references.push_back(from_row(row));
      }
    } catch (const Json::exception& error) {
      fail("{}:{}: {}; delete the file to make it again",
           log.path(),
           references.size() + 1,
           error.what());
    }
    if (references.size() < pairs_.size())
      references.resize(references.size() - references.size() % stretch);
    if (references.size() < rows.size()) log.keep(references.size());
    return references;
  }

  const PreferenceConfig& config_;
  LoadedModel& model_;
  const std::vector<PreferencePair>& pairs_;
  const PictureReader& picture_;
  torch::Device device_;
  const WorkingRanks& ranks_;
  std::string hash_;
  std::map<std::string, Reference> cache_;  // of another training, by key
  ReferenceCounts counts_;
};

}  // namespace

std::vector<Reference> reference_log_probs(const PreferenceConfig& config,
                                           LoadedModel& reference,
                                           const std::vector<PreferencePair>& pairs,
                                           const PictureReader& picture,
                                           torch::Device device,
                                           JsonlLog& log,
                                           const RoundObserver& observer,
                                           const WorkingRanks& ranks,
                                           const std::string& cache,
                                           ReferenceCounts* counts) {
  reference.model->eval();
  ReferenceRun run(config, reference, pairs, picture, device, ranks, cache);
  std::vector<Reference> references = run.run(log, observer);
  if (counts != nullptr) {
    counts->from_cache += run.counts().from_cache;
    counts->computed += run.counts().computed;
  }
  return references;
}

}  // namespace pocketvlm
