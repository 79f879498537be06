#include "rlaif/preference_training.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

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
#include "rlaif/jsonl_log.h"
#include "rlaif/preference_loss.h"
#include "rlaif/reference.h"
#include "trainer/optimizer.h"
#include "trainer/training_state.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kOrderStream = 0x6F726465;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
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
                const RoundObserver& observer)
      : config_(config),
        policy_(policy),
        pairs_(pairs),
        picture_(picture),
        seed_(seed),
        device_(device),
        folder_(folder),
        observer_(observer),
        metrics_(folder + "/metrics.jsonl") {}

  PreferenceResult run() {
    prepare_model();
    JsonlLog log(folder_ + "/reference.jsonl");
    references_ = reference_log_probs(config_, policy_, pairs_, picture_, device_, log, observer_);
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      if (references_[i].dropped.empty())
        usable_.push_back(i);
      else
        ++result_.dropped[references_[i].dropped];
    }
    result_.pairs = static_cast<std::int64_t>(usable_.size());
    if (usable_.empty())
      spdlog::warn("{}: no pairs to learn from; the policy is left as it is", folder_);
    else
      train();
    return finish();
  }

 private:
  std::int64_t steps_an_epoch() const {
    return (result_.pairs + config_.batch_pairs - 1) / config_.batch_pairs;
  }

  void prepare_model() {
    const std::vector<std::string> names = set_trainable(*policy_.model, config_.trainable);
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

  torch::Tensor pack_log_probs(const PackedBatch& batch) {
    const ComputeDtype guard(config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
    return segment_log_probs(policy_.model, batch, device_).view({-1, 2});
  }

  void train() {
    const std::int64_t steps = config_.epochs * steps_an_epoch();
    optimizer_.emplace(config_.optimizer, weights_, steps);
    continue_or_begin();
    policy_.model->train();
    Progress progress("preferences: steps", steps, steps_done());
    std::future<std::vector<PairPack>> next = prepare_step(steps_done(), steps);
    while (steps_done() < steps) {
      const std::vector<PairPack> packs = next.get();
      next = prepare_step(steps_done() + 1, steps);
      const auto now = step(packs);
      progress.update(
          steps_done(),
          fmt::format("loss {:.4f}  margin {:.3f}", now.at("loss"), now.at("rewards/margins")));
      const bool due = config_.checkpoint_every > 0 && steps_done() % config_.checkpoint_every == 0;
      if (due || steps_done() == steps)
        save_training_state(state_folder(), state_, weights_, optimizer_->state());
      if (observer_) observer_("preference", steps_done());
    }
    progress.finish();
    policy_.model->eval();
    result_.steps = steps;
    result_.seconds = state_.total.seconds;
    result_.first = metrics_of(metrics_.rows().front());
    result_.last = metrics_of(metrics_.rows().back());
  }

  std::int64_t steps_done() const { return state_.total.steps; }
  std::string state_folder() const { return folder_ + "/state"; }

  void continue_or_begin() {
    if (auto saved = load_training_state(state_folder())) {
      PV_CHECK(saved->state.frozen_hashes == state_.frozen_hashes,
               "{}: was begun with other frozen weights; delete the folder to start again",
               folder_);
      if (saved->state.threads != state_.threads) {
        spdlog::warn(
            "{}: begun with {} threads, continues with {}: the last bits of the result will differ "
            "from those of an "
            "uninterrupted run",
            folder_,
            saved->state.threads,
            state_.threads);
      }
      restore(*saved);
      spdlog::info("{}: continues after step {}", folder_, steps_done());
    }
    PV_CHECK(static_cast<std::int64_t>(metrics_.rows().size()) >= steps_done(),
             "{}: has fewer lines than the {} steps done; delete {} to train again",
             metrics_.path(),
             steps_done(),
             state_folder());
    metrics_.keep(static_cast<std::size_t>(steps_done()));
  }

  void restore(SavedTraining& saved) {
    const at::NoGradGuard no_grad;
    const std::map<std::string, torch::Tensor> tensors(saved.weights.begin(), saved.weights.end());
    for (auto& [name, weight] : weights_) {
      const auto found = tensors.find(name);
      PV_CHECK(tensors.size() == weights_.size() && found != tensors.end() &&
                   found->second.sizes() == weight.sizes(),
               "{}: state of another model: {} is missing or has another shape; delete the folder "
               "to start again",
               state_folder(),
               name);
      weight.copy_(found->second);
    }
    optimizer_->restore(saved.moments, saved.state.total.steps);
    const std::int64_t threads = state_.threads;
    state_ = std::move(saved.state);
    state_.threads = threads;
  }

  // Drawing, slicing and tokenizing run beside the step before.
  std::future<std::vector<PairPack>> prepare_step(std::int64_t step, std::int64_t steps) const {
    if (step >= steps) return {};
    return std::async(std::launch::async, [this, step] {
      return make_packs(
          pairs_, pairs_of_step(step), picture_, *policy_.encoder, config_.pack_tokens);
    });
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

  PairLogProbs log_probs_of(const PairPack& pack) {
    const torch::Tensor policy = pack_log_probs(pack.batch);
    std::vector<float> values[4];
    for (const std::size_t index : pack.pairs) {
      const Reference& reference = references_[index];
      values[0].push_back(reference.chosen);
      values[1].push_back(reference.rejected);
      values[2].push_back(static_cast<float>(reference.chosen_tokens));
      values[3].push_back(static_cast<float>(reference.rejected_tokens));
    }
    const auto tensor = [&](int i) {
      return torch::tensor(values[i], torch::kFloat32).to(device_);
    };
    return {policy.select(1, 0), policy.select(1, 1), tensor(0), tensor(1), tensor(2), tensor(3)};
  }

  std::map<std::string, double> step(const std::vector<PairPack>& packs) {
    const auto begin = Clock::now();
    std::map<std::string, double> metrics;
    double num_pairs = 0;
    StepTotals now;
    now.steps = 1;
    for (const PairPack& pack : packs) {
      const PairLogProbs log_probs = log_probs_of(pack);
      const torch::Tensor losses = preference_losses(log_probs, config_);
      losses.sum().backward();
      for (const auto& [name, sum] : preference_metric_sums(log_probs, losses, config_))
        metrics[name] += sum;
      num_pairs += static_cast<double>(pack.pairs.size());
      now.tokens += pack.batch.num_tokens();
      now.images += static_cast<std::int64_t>(pack.pairs.size());
    }
    for (auto& [name, value] : metrics) value /= num_pairs;
    PV_CHECK(std::isfinite(metrics.at("loss")),
             "{}: the loss of step {} is {}; nothing was updated. Lower "
             "preference.optimizer.learning_rate; {} holds the last "
             "good state",
             folder_,
             steps_done() + 1,
             metrics.at("loss"),
             state_folder());
    metrics["learning_rate"] = optimizer_->learning_rate();
    metrics["grad_norm"] = optimizer_->step(1.0 / num_pairs);
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
  JsonlLog metrics_;
  std::set<std::string> trainable_;
  NamedTensors weights_;
  std::vector<Reference> references_;  // one a pair
  std::vector<std::size_t> usable_;    // pairs that can be trained on
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
                                   const RoundObserver& observer) {
  make_folders(folder);
  return PreferenceRun(config, policy, pairs, picture, seed, device, folder, observer).run();
}

}  // namespace pocketvlm
