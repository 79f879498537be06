#include "rlaif/reference.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "rlaif/content_key.h"

namespace pocketvlm {
namespace {

class ReferenceRun {
 public:
  ReferenceRun(const PreferenceConfig& config,
               LoadedModel& model,
               const std::vector<PreferencePair>& pairs,
               const PictureReader& picture,
               torch::Device device,
               const WorkingRanks& ranks)
      : config_(config),
        model_(model),
        pairs_(pairs),
        picture_(picture),
        device_(device),
        ranks_(ranks),
        hash_(weights_hash(*model.model, {"*"})) {}

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
    return references;
  }

 private:
  // What a pair's reference depends on, and why there is none; the picture is read once for both.
  struct Look {
    std::string key;
    std::string obstacle;  // empty: the pair can be trained on
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
      if (longest > model_.config.language.max_positions)
        look.obstacle = "longer than language.max_positions";
      if (pair.chosen == pair.rejected) look.obstacle = "chosen and rejected are equal";
    } catch (const Error& error) {
      look.obstacle = error.what();
    }
    look.key = content_key({hash_,
                            fmt::format("{} {} {} {} {}",
                                        config_.compute_dtype,
                                        config_.share_prompt,
                                        config_.changed_token_weight,
                                        config_.mean_over_tokens,
                                        config_.length_tail_weight),
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
      keys.push_back(std::move(look.key));
      references[i - begin].dropped = std::move(look.obstacle);
      if (references[i - begin].dropped.empty()) fitting.push_back(i);
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

  static Json to_row(const std::string& key, const Reference& reference) {
    if (!reference.dropped.empty()) return {{"key", key}, {"dropped", reference.dropped}};
    return {{"key", key},
            {"chosen_logps", reference.chosen},
            {"rejected_logps", reference.rejected},
            {"chosen_tokens", reference.chosen_tokens},
            {"rejected_tokens", reference.rejected_tokens}};
  }

  static Reference from_row(const Json& row) {
    if (row.contains("dropped")) return {0, 0, 0, 0, row.at("dropped").get<std::string>()};
    return {static_cast<float>(number_of(row.at("chosen_logps"))),
            static_cast<float>(number_of(row.at("rejected_logps"))),
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
};

}  // namespace

std::vector<Reference> reference_log_probs(const PreferenceConfig& config,
                                           LoadedModel& reference,
                                           const std::vector<PreferencePair>& pairs,
                                           const PictureReader& picture,
                                           torch::Device device,
                                           JsonlLog& log,
                                           const RoundObserver& observer,
                                           const WorkingRanks& ranks) {
  reference.model->eval();
  return ReferenceRun(config, reference, pairs, picture, device, ranks).run(log, observer);
}

}  // namespace pocketvlm
