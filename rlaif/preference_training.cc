#include "rlaif/preference_training.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/utils.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <future>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/random.h"
#include "model/adapter.h"
#include "model/lora.h"
#include "rlaif/job_ranks.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/preference_loss.h"
#include "trainer/distributed/sharding.h"
#include "trainer/optimizer.h"
#include "trainer/state_store.h"
#include "trainer/state_writer.h"
#include "trainer/training_state.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kOrderStream = 0x6F726465;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// A model of its own with the same weights.
VisionLanguageModel copy_of(VisionLanguageModel& model) {
  const at::NoGradGuard no_grad;
  VisionLanguageModel copy(model->config());
  const auto weights = model->named_parameters();
  for (auto& item : copy->named_parameters()) item.value().set_data(weights[item.key()].detach().clone());
  copy->eval();
  return copy;
}

/// One running preference training. `run` reads like its life.
class PreferenceRun {
 public:
  PreferenceRun(const PreferenceConfig& config,
                LoadedModel& policy,
                const std::vector<PreferencePair>& pairs,
                const PictureReader& picture,
                std::uint64_t seed,
                const std::string& device,
                const std::string& folder,
                const RoundObserver& observer,
                const PreferenceOptions& options,
                Communicator& ranks)
      : config_(config),
        policy_(policy),
        pairs_(pairs),
        picture_(picture),
        seed_(seed),
        device_(device),
        folder_(folder),
        observer_(observer),
        options_(options),
        ranks_(ranks),
        working_(working_ranks(ranks)),
        store_(folder + "/state", &ranks),
        states_(folder + "/state", &ranks),
        metrics_(folder + "/metrics.jsonl", working_) {}

  PreferenceResult run() {
    check_single();
    const WatchedRanks watched(ranks_, options_.distributed.timeout_s, "computing reference log-probs");
    // Before the model changes: with low-rank updates the reference is the model without them.
    references_ = references_of(pairs_, "reference.jsonl");
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      if (references_[i].dropped.empty())
        usable_.push_back(i);
      else
        ++result_.dropped[references_[i].dropped];
    }
    result_.pairs = static_cast<std::int64_t>(usable_.size());
    if (config_.uses("kto")) mismatch_pairs();
    if (is_live() && !usable_.empty()) freeze_reference();
    prepare_model();
    if (!usable_.empty()) {
      ranks_.phase("preparing preference training");
      train();
    } else if (ranks_.is_first()) {
      spdlog::warn("{}: no pairs to learn from; the policy is left as it is", folder_);
    }
    return finish();
  }

 private:
  std::vector<Reference> references_of(const std::vector<PreferencePair>& pairs,
                                       const std::string& file) {
    LoadedModel& reference = options_.reference != nullptr ? *options_.reference : policy_;
    reference.model->to(device_);
    JsonlLog log(folder_ + "/" + file, working_);
    return reference_log_probs(
        config_, reference, pairs, picture_, device_, log, observer_, working_, config_.reference_cache, &result_.references);
  }

  // Single answers can be learned from by KTO's own loss alone.
  void check_single() {
    const auto singles = std::count_if(pairs_.begin(), pairs_.end(), [](const PreferencePair& pair) { return pair.single; });
    of_single_ = singles > 0;
    if (!of_single_) return;
    PV_CHECK(singles == static_cast<std::ptrdiff_t>(pairs_.size()), "{}: single answers and pairs cannot be learned from together", folder_);
    PV_CHECK(config_.loss == "kto", "{}: single answers are for the loss kto, not {}; set preference.loss", folder_, config_.loss);
    PV_CHECK(config_.sft_weight == 0 && config_.changed_token_weight == 1 && config_.length_tail_weight == 1,
             "{}: preference.sft_weight, changed_token_weight and length_tail_weight are for pairs, not for single answers; leave them out",
             folder_);
  }

  bool is_live() const { return config_.reference == "live"; }

  // The model that says log-probs in every step: the given one, the policy without its updates where those alone learn, or a copy.
  void freeze_reference() {
    if (options_.reference != nullptr) live_reference_ = options_.reference->model;
    else if (!config_.lora || !config_.trainable.empty()) live_reference_ = copy_of(policy_.model);
  }

  // KTO's KL term is the log-ratio of answers that do not belong to their prompt: each prompt gets those of the next
  // usable pair, so that the answers of the estimate are the answers of the data.
  void mismatch_pairs() {
    PV_CHECK(usable_.empty() || usable_.size() > 1,
             "{}: the loss kto needs at least two pairs (or single answers), for it compares prompts with each other's "
             "answers; there is {}",
             folder_,
             usable_.size());
    mismatched_ = pairs_;
    for (std::size_t i = 0; i < usable_.size(); ++i) {
      const PreferencePair& next = pairs_[usable_[(i + 1) % usable_.size()]];
      PreferencePair& mismatched = mismatched_[usable_[i]];
      if (next.single) {
        (mismatched.is_desirable() ? mismatched.chosen : mismatched.rejected) = next.completion();
      } else {
        mismatched.chosen = next.chosen;
        mismatched.rejected = next.rejected;
      }
    }
    mismatched_references_ = references_of(mismatched_, "reference-kl.jsonl");
  }

  std::int64_t steps_an_epoch() const {
    return (result_.pairs + config_.batch_pairs - 1) / config_.batch_pairs;
  }

  std::vector<std::string> learning_patterns() {
    std::vector<std::string> patterns = config_.trainable;
    if (config_.lora) {
      add_lora(*policy_.model, *config_.lora, seed_);
      patterns.insert(patterns.end(), {"*.lora_a", "*.lora_b"});
    }
    return patterns.empty() ? std::vector<std::string>{"*"} : patterns;
  }

  void prepare_model() {
    const std::vector<std::string> names = set_trainable(*policy_.model, learning_patterns());
    trainable_.insert(names.begin(), names.end());
    state_.frozen_hashes = hash_frozen();
    state_.threads = at::get_num_threads();
    policy_.model->to(device_);
    for (const auto& item : policy_.model->named_parameters()) {
      if (trainable_.count(item.key()) != 0) weights_.emplace_back(item.key(), item.value());
    }
  }

  std::map<std::string, std::string> hash_frozen() const {
    std::map<std::string, std::string> hashes;
    for (const auto& item : policy_.model->named_parameters()) {
      if (trainable_.count(item.key()) == 0)
        hashes[item.key()] = weights_hash(*policy_.model, {item.key()});
    }
    return hashes;
  }

  PackLogProbs policy_log_probs(const PairPack& pack) {
    const UseBlockRunner runner(sharding_->runner());
    const ComputeDtype guard(config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
    return pack_log_probs(policy_.model, pack, config_, device_);
  }

  // [pairs, 2]
  torch::Tensor live_log_probs(const PairPack& pack) {
    const at::NoGradGuard no_grad;
    const ComputeDtype guard(config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
    if (!live_reference_.is_empty()) return pack_log_probs(live_reference_, pack, config_, device_).sums;
    const WithoutLora without;
    return policy_log_probs(pack).sums;
  }

  void train() {
    const std::int64_t steps = config_.epochs * steps_an_epoch();
    // Draws inside the model (dropout) differ from rank to rank, as the pairs do.
    if (ranks_.rank() > 0) torch::manual_seed(mix_keys({seed_, static_cast<std::uint64_t>(ranks_.rank())}));
    for (const auto& [name, weight] : weights_) tensors_.emplace_back(name, weight.sizes().vec());
    sharding_.emplace(options_.distributed, false, *policy_.model, device_, weights_, ranks_);
    optimizer_.emplace(config_.optimizer, sharding_->parts(), steps, sharding_->exchange());
    continue_or_begin();
    policy_.model->train();
    std::optional<Progress> progress;
    if (ranks_.is_first()) progress.emplace("preferences: steps", steps, steps_done());
    std::future<StepPacks> next = prepare_step(steps_done(), steps);
    while (steps_done() < steps) {
      ranks_.phase(fmt::format("in preference step {}", steps_done() + 1));
      const StepPacks packs = next.get();
      next = prepare_step(steps_done() + 1, steps);
      const auto now = step(packs);
      if (progress) {
        progress->update(
            steps_done(),
            fmt::format("loss {:.4f}{}",
                        now.at("loss"),
                        now.count("rewards/margins") != 0 ? fmt::format("  margin {:.3f}", now.at("rewards/margins")) : ""));
      }
      keep_candidate(steps);
      const bool due = config_.checkpoint_every > 0 && steps_done() % config_.checkpoint_every == 0;
      if (all_written_) states_.complete();
      if (due || steps_done() == steps) save_state(steps);
      if (observer_) observer_("preference", steps_done());
    }
    if (progress) progress->finish();
    optimizer_.reset();
    sharding_->restore_model();
    sharding_.reset();
    policy_.model->eval();
    result_.steps = steps;
    result_.seconds = state_.total.seconds;
    result_.first = metrics_of(metrics_.rows().front());
    result_.last = metrics_of(metrics_.rows().back());
  }

  void save_state(std::int64_t steps) {
    ranks_.phase(fmt::format("saving the state of preference step {}", steps_done()));
    TrainingState state = state_;
    state.ranks = ranks_.size();
    // Of slices that every rank has, those that this one writes.
    const auto written = [this](std::vector<TensorSlice> slices) {
      std::vector<TensorSlice> own;
      for (std::size_t i = 0; i < slices.size(); ++i) {
        if (sharding_->writes(i)) own.push_back(std::move(slices[i]));
      }
      return own;
    };
    const StateSlices slices = {written(sharding_->parts()), written(optimizer_->moments()), {}};
    // After the last step there is nothing left to do beside.
    if (config_.checkpoint_in_background && steps_done() < steps) states_.begin(state, slices);
    else states_.save(state, slices);
  }

  std::int64_t steps_done() const { return state_.total.steps; }
  std::string state_folder() const { return folder_ + "/state"; }

  void keep_candidate(std::int64_t steps) {
    if (config_.keep_every == 0 || steps_done() == steps || steps_done() % config_.keep_every != 0)
      return;
    const std::string candidate = fmt::format("{}/candidates/step-{:06}", folder_, steps_done());
    sharding_->with_whole_model([&] {
      if (!ranks_.is_first()) return;
      if (config_.lora) {
        save_adapter(*policy_.model, policy_.config, *config_.lora, options_.policy, candidate + "-adapter");
        merge_adapter(options_.policy, candidate + "-adapter", candidate);
        std::filesystem::remove_all(candidate + "-adapter");
      } else {
        save_model(policy_.model, options_.tokenizer_path, candidate);
      }
    });
  }

  void continue_or_begin() {
    if (std::optional<TrainingState> saved = store_.find()) {
      PV_CHECK(saved->frozen_hashes == state_.frozen_hashes,
               "{}: was begun with other frozen weights; delete the folder to start again",
               folder_);
      if ((saved->threads != state_.threads || saved->ranks != ranks_.size()) && ranks_.is_first()) {
        spdlog::warn(
            "{}: begun with {} ranks of {} threads, continues with {} of {}: the last bits of the result will differ from "
            "those of an uninterrupted run",
            folder_,
            saved->ranks,
            saved->threads,
            ranks_.size(),
            state_.threads);
      }
      restore(std::move(*saved));
      if (ranks_.is_first()) spdlog::info("{}: continues after step {}", folder_, steps_done());
    }
    PV_CHECK(static_cast<std::int64_t>(metrics_.rows().size()) >= steps_done(),
             "{}: has fewer lines than the {} steps done; delete {} to train again",
             metrics_.path(),
             steps_done(),
             state_folder());
    metrics_.keep(static_cast<std::size_t>(steps_done()));
  }

  void restore(TrainingState saved) {
    const std::int64_t step = saved.total.steps;
    store_.restore_weights(step, sharding_->parts(), tensors_);
    store_.restore_moments(step, optimizer_->moments());
    optimizer_->set_steps_done(step);
    sharding_->spread_weights();
    if (!store_.restore_random_state(step))
      torch::manual_seed(mix_keys({seed_, static_cast<std::uint64_t>(ranks_.rank()), static_cast<std::uint64_t>(step)}));
    const std::int64_t threads = state_.threads;
    state_ = std::move(saved);
    state_.threads = threads;
  }

  // This rank's packs of a step, and those that estimate its KL term.
  struct StepPacks {
    std::vector<PairPack> pairs, mismatched;
    bool idle = false;  // `pairs` is the step's first, which belongs to another rank: it counts for nothing
  };

  // Drawing, slicing and tokenizing run beside the step before.
  std::future<StepPacks> prepare_step(std::int64_t step, std::int64_t steps) const {
    if (step >= steps) return {};
    return std::async(std::launch::async, [this, step] {
      const std::vector<std::size_t> all = pairs_of_step(step);
      std::vector<std::size_t> indices = own_part(all);
      StepPacks packs;
      packs.idle = indices.empty();
      std::vector<std::size_t> fitting;
      for (const std::size_t index : indices) {
        if (!mismatched_.empty() && mismatched_references_[index].dropped.empty())
          fitting.push_back(index);
      }
      if (packs.idle) indices = {all.front()};
      packs.pairs = make_packs(pairs_, indices, picture_, *policy_.encoder, config_);
      packs.mismatched = make_packs(mismatched_, fitting, picture_, *policy_.encoder, config_);
      return packs;
    });
  }

  // Of a step's pairs a stretch for each rank, equal up to one pair.
  std::vector<std::size_t> own_part(const std::vector<std::size_t>& all) const {
    const auto border = [&](int rank) {
      return all.begin() + static_cast<std::ptrdiff_t>(all.size() * static_cast<std::size_t>(rank) /
                                                       static_cast<std::size_t>(ranks_.size()));
    };
    return {border(ranks_.rank()), border(ranks_.rank() + 1)};
  }

  std::vector<std::size_t> pairs_of_step(std::int64_t step) const {
    const std::int64_t epoch = step / steps_an_epoch();
    const std::int64_t begin = step % steps_an_epoch() * config_.batch_pairs;
    const std::int64_t end = std::min(result_.pairs, begin + config_.batch_pairs);
    const std::uint64_t order = mix_keys({seed_, kOrderStream, static_cast<std::uint64_t>(epoch)});
    std::vector<std::size_t> indices;
    for (std::int64_t i = begin; i < end; ++i) {
      indices.push_back(usable_[static_cast<std::size_t>(permuted_index(i, result_.pairs, order))]);
    }
    return indices;
  }

  // [pairs, 2] of what the reference says of the pack's pairs.
  torch::Tensor reference_sums(const PairPack& pack, const std::vector<Reference>& references) {
    if (is_live()) return live_log_probs(pack);
    std::vector<float> values;
    for (const std::size_t index : pack.pairs) {
      values.push_back(references[index].chosen);
      values.push_back(references[index].rejected);
    }
    return torch::tensor(values, torch::kFloat32).view({-1, 2}).to(device_);
  }

  PairLogProbs log_probs_of(const PairPack& pack) {
    const PackLogProbs policy = policy_log_probs(pack);
    const torch::Tensor reference = reference_sums(pack, references_);
    PairLogProbs log_probs;
    log_probs.policy_chosen = policy.sums.select(1, 0);
    log_probs.policy_rejected = policy.sums.select(1, 1);
    log_probs.reference_chosen = reference.select(1, 0);
    log_probs.reference_rejected = reference.select(1, 1);
    log_probs.chosen_tokens = policy.tokens.select(1, 0);
    log_probs.rejected_tokens = policy.tokens.select(1, 1);
    log_probs.plain_chosen = policy.plain.select(1, 0);
    if (of_single_) log_probs.desirable = log_probs.chosen_tokens > 0;
    return log_probs;
  }

  // How many forwards this rank has to take part in: where blocks are gathered from all ranks, as many as the one with the
  // most packs.
  std::size_t shared_forwards(std::size_t own) {
    if (!sharding_->gathers_blocks()) return own;
    for (const std::string& other : ranks_.gather_texts(std::to_string(own)))
      own = std::max<std::size_t>(own, std::stoull(other));
    return own;
  }

  // KTO: mean log-ratio of the mismatched answers, not below 0; no gradient flows through it.
  double kl_of(const StepPacks& packs) {
    if (mismatched_.empty()) return 0.0;
    const at::NoGradGuard no_grad;
    double sum = 0;
    double answers = 0;
    const std::size_t own = packs.mismatched.size();
    const std::size_t forwards = shared_forwards(own);
    for (std::size_t i = 0; i < forwards; ++i) {
      const PairPack& pack = i < own ? packs.mismatched[i] : packs.pairs.front();
      const torch::Tensor ratios = policy_log_probs(pack).sums - reference_sums(pack, i < own ? mismatched_references_ : references_);
      if (i >= own) continue;
      sum += ratios.to(torch::kFloat64).sum().item<double>();
      answers += static_cast<double>(std::count(pack.has_answer.begin(), pack.has_answer.end(), true));
    }
    const std::vector<double> sums = ranks_.sum({sum, answers});
    return sums[1] > 0 ? std::max(0.0, sums[0] / sums[1]) : 0.0;
  }

  // Forward and backward of this rank's packs; adds what they say to `metrics`.
  void accumulate_gradients(const StepPacks& packs,
                            const PairLogProbs& of_step,
                            std::map<std::string, double>& metrics,
                            StepTotals& now) {
    const std::size_t own = packs.pairs.size();
    const std::size_t forwards = shared_forwards(own);
    for (std::size_t i = 0; i < forwards; ++i) {
      const PairPack& pack = i < own ? packs.pairs[i] : packs.pairs.front();
      const bool counts = i < own && !packs.idle;
      PairLogProbs log_probs = log_probs_of(pack);
      log_probs.kl = of_step.kl;
      log_probs.step_tokens = of_step.step_tokens;
      log_probs.step_pairs = of_step.step_pairs;
      const torch::Tensor losses = preference_losses(log_probs, config_);
      if (i + 1 == forwards) sharding_->expect_last_backward();
      (counts ? losses.sum() : losses.sum() * 0.0).backward();
      for (const auto& [name, sum] : preference_metric_sums(log_probs, losses, config_))
        metrics[name] += counts ? sum : 0.0;
      if (!counts) continue;
      now.tokens += pack.batch().num_tokens();
      now.images += static_cast<std::int64_t>(pack.pairs.size());
    }
  }

  // Sums of all ranks in the place of this one's.
  void sum_over_ranks(std::map<std::string, double>& metrics, StepTotals& now) {
    std::vector<double> values = {
        static_cast<double>(now.tokens), static_cast<double>(now.images), states_.written() ? 1.0 : 0.0};
    for (const auto& [name, value] : metrics) values.push_back(value);
    values = ranks_.sum(values);
    now.tokens = static_cast<std::int64_t>(values[0]);
    now.images = static_cast<std::int64_t>(values[1]);
    all_written_ = static_cast<int>(values[2]) == ranks_.size();
    std::size_t next = 3;
    for (auto& [name, value] : metrics) value = values[next++];
  }

  // From sums to what is logged: means over the pairs, or over the single answers of a kind, where there are any.
  static void take_means(std::map<std::string, double>& metrics, double num_pairs) {
    const auto counted = [&](const char* kind) {
      const auto count = metrics.find(std::string("count/") + kind);
      return count == metrics.end() ? std::optional<double>() : count->second;
    };
    const std::optional<double> chosen = counted("chosen"), rejected = counted("rejected");
    if (!chosen) {
      for (auto& [name, value] : metrics) value /= num_pairs;
      return;
    }
    for (auto item = metrics.begin(); item != metrics.end();) {
      auto& [name, value] = *item;
      const double of = name.ends_with("rejected") ? *rejected : name.ends_with("chosen") ? *chosen : num_pairs;
      if (!name.starts_with("count/")) value = of > 0 ? value / of : 0;
      item = of > 0 || name.starts_with("count/") ? std::next(item) : metrics.erase(item);
    }
    if (*chosen > 0 && *rejected > 0)
      metrics["rewards/margins"] = metrics.at("rewards/chosen") - metrics.at("rewards/rejected");
  }

  std::map<std::string, double> step(const StepPacks& packs) {
    const auto begin = Clock::now();
    std::map<std::string, double> metrics;
    const double kl = kl_of(packs);
    const std::vector<std::size_t> all = pairs_of_step(steps_done());
    const auto num_pairs = static_cast<double>(all.size());
    PairLogProbs of_step;
    of_step.kl = kl;
    of_step.step_pairs = num_pairs;
    for (const std::size_t index : all) of_step.step_tokens += static_cast<double>(references_[index].chosen_tokens);
    StepTotals now;
    now.steps = 1;
    accumulate_gradients(packs, of_step, metrics, now);
    sharding_->reduce_gradients();
    sum_over_ranks(metrics, now);
    take_means(metrics, num_pairs);
    if (!std::isfinite(metrics.at("loss"))) states_.finish();  // which the error names
    PV_CHECK(std::isfinite(metrics.at("loss")),
             "{}: the loss of step {} is {}; nothing was updated. Lower "
             "preference.optimizer.learning_rate; {} holds the last "
             "good state",
             folder_,
             steps_done() + 1,
             metrics.at("loss"),
             state_folder());
    if (config_.uses("kto")) metrics["kl"] = kl;
    metrics["learning_rate"] = optimizer_->learning_rate();
    metrics["grad_norm"] = optimizer_->step(1.0 / num_pairs);
    sharding_->spread_weights();
    now.loss = metrics.at("loss");
    now.seconds = seconds_since(begin);
    state_.total.add(now);
    Json row = {{"step", steps_done()}};
    for (const auto& [name, value] : metrics) row[name] = value;
    row["tokens_per_s"] = static_cast<double>(now.tokens) / now.seconds;
    row["seconds"] = state_.total.seconds;
    metrics_.append({row});
    return metrics;
  }

  static std::map<std::string, double> metrics_of(const Json& row) {
    std::map<std::string, double> metrics;
    for (const auto& item : row.items()) {
      if (item.value().is_number()) metrics[item.key()] = item.value().get<double>();
    }
    return metrics;
  }

  PreferenceResult finish() {
    policy_.model->to(torch::kCPU);
    for (const auto& [name, hash] : hash_frozen()) {
      PV_CHECK(state_.frozen_hashes.at(name) == hash,
               "{}: the frozen tensor {} changed during preference training",
               folder_,
               name);
    }
    for (const auto& item : policy_.model->named_parameters()) {
      const std::string component = item.key().substr(0, item.key().find('.'));
      if (result_.components.empty() || result_.components.back().component != component) {
        result_.components.emplace_back();
        result_.components.back().component = component;
      }
      ComponentRow& row = result_.components.back();
      row.tensors += 1;
      row.parameters += item.value().numel();
      if (trainable_.count(item.key()) == 0) continue;
      row.trainable_tensors += 1;
      row.trainable_parameters += item.value().numel();
    }
    if (config_.lora && ranks_.is_first()) save_adapter(*policy_.model, policy_.config, *config_.lora, options_.policy, folder_ + "/adapter");
    merge_lora(*policy_.model);
    return std::move(result_);
  }

  const PreferenceConfig& config_;
  LoadedModel& policy_;
  const std::vector<PreferencePair>& pairs_;
  const PictureReader& picture_;
  std::uint64_t seed_;
  torch::Device device_;
  std::string folder_;
  const RoundObserver& observer_;
  const PreferenceOptions& options_;
  Communicator& ranks_;
  WorkingRanks working_;
  StateStore store_;
  StateWriter states_;
  bool all_written_ = false;  // every rank has written its part of the state that was begun
  VisionLanguageModel live_reference_{nullptr};  // empty: cached, or the policy without its updates
  JsonlLog metrics_;
  std::set<std::string> trainable_;
  NamedTensors weights_;
  std::vector<Reference> references_;  // one a pair
  bool of_single_ = false;             // single answers instead of pairs
  std::vector<PreferencePair> mismatched_;         // kto: pairs with the answers of others; else empty
  std::vector<Reference> mismatched_references_;
  std::vector<std::size_t> usable_;    // pairs that can be trained on
  StateStore::Tensors tensors_;        // names and shapes of what learns
  std::optional<Sharding> sharding_;
  std::optional<Optimizer> optimizer_;
  TrainingState state_;
  PreferenceResult result_;
};

}  // namespace

Json PreferenceResult::to_json() const {
  StageResult stage;
  stage.components = components;
  return {{"pairs", pairs},
          {"steps", steps},
          {"seconds", seconds},
          {"dropped", dropped},
          {"references", {{"from_cache", references.from_cache}, {"computed", references.computed}}},
          {"first", first},
          {"last", last},
          {"components", stage.to_json().at("components")}};
}

PreferenceResult train_preferences(const PreferenceConfig& config,
                                   LoadedModel& policy,
                                   const std::vector<PreferencePair>& pairs,
                                   const PictureReader& picture,
                                   std::uint64_t seed,
                                   const std::string& device,
                                   const std::string& folder,
                                   const RoundObserver& observer,
                                   const PreferenceOptions& options) {
  Communicator alone{Communicator::Alone()};
  Communicator& ranks = options.ranks != nullptr ? *options.ranks : alone;
  if (ranks.is_first()) make_folders(folder);
  PV_CHECK(config.keep_every == 0 || !options.tokenizer_path.empty(),
           "preference.keep_every: checkpoints cannot be kept without their tokenizer");
  PV_CHECK(config.keep_every == 0 || !config.lora || !options.policy.empty(),
           "preference.keep_every with lora: checkpoints cannot be merged without the policy's own folder");
  return PreferenceRun(config, policy, pairs, picture, seed, device, folder, observer, options, ranks)
      .run();
}

}  // namespace pocketvlm
