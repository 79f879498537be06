#include "trainer/stage.h"

#include <ATen/Parallel.h>
#include <torch/utils.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "base/files.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/random.h"
#include "trainer/contrastive.h"
#include "trainer/metrics_log.h"
#include "trainer/optimizer.h"
#include "trainer/thread_count.h"
#include "trainer/training_state.h"

namespace pocketvlm {
namespace {

constexpr const char* kContrastivePrefix = "contrastive.";
constexpr std::size_t kMaxListedSkipped = 1000;

using Clock = std::chrono::steady_clock;

std::string component_of(const std::string& name) { return name.substr(0, name.find('.')); }

/// The configuration without what cannot change the result.
Json deciding_fields(const StageConfig& config) {
  Json json = config_to_json(config);
  json.erase("threads");  // changes last bits only; the saved state warns
  json.erase("checkpoint_every");
  json["data"].erase("workers");
  return json;
}

void check_same_config(const StageConfig& config, const std::string& folder) {
  const std::string path = folder + "/config.json";
  const Json now = deciding_fields(config);
  const Json then = deciding_fields(read_config<StageConfig>(read_json(path), path));
  const Json changes = Json::diff(then, now);
  if (changes.empty()) return;
  fail(
      "{}: holds results of another configuration (\"{}\" differs); delete the folder, or choose "
      "another one",
      folder,
      changes[0]["path"].get<std::string>().substr(1));
}

torch::Device device_of(const StageConfig& config) {
  if (config.device == "cpu") return torch::kCPU;
  PV_CHECK(at::hasCUDA(),
           "stage {}: device is \"cuda\", but no CUDA device is usable; set it to \"cpu\"",
           config.name);
  return torch::kCUDA;
}

LoaderConfig loader_config(const StageConfig& config) {
  LoaderConfig loader = config.data;
  loader.seed = mix_keys({config.seed, config.data.seed});
  return loader;
}

/// The pieces of one running stage. `run` reads like the life of a stage.
class StageRun {
 public:
  StageRun(const StageConfig& config,
           LoadedModel& model,
           const std::string& tokenizer_path,
           const std::string& folder,
           const std::function<void(int64_t)>& after_step)
      : config_(config),
        model_(model),
        tokenizer_path_(tokenizer_path),
        folder_(folder),
        after_step_(after_step),
        device_(device_of(config)),
        encoder_(*model.tokenizer,
                 stage_prompt(config.input, model.config.prompt),
                 stage_image(config.input, model.config.image)),
        loader_(loader_config(config), encoder_) {}

  StageResult run() {
    prepare_model();
    continue_or_begin();
    Progress progress(config_.name, config_.steps, steps_done());
    while (steps_done() < config_.steps) {
      step();
      progress.update(steps_done(), note());
      const bool due = config_.checkpoint_every > 0 && steps_done() % config_.checkpoint_every == 0;
      if (due || steps_done() == config_.steps) save_state();
      if (after_step_) after_step_(steps_done());
    }
    progress.finish();
    return finish();
  }

 private:
  int64_t steps_done() const { return state_.total.steps; }
  std::string state_folder() const { return folder_ + "/state"; }
  bool is_contrastive() const { return config_.objective == "contrastive"; }

  void prepare_model() {
    torch::manual_seed(config_.seed);
    const std::vector<std::string> trainable = set_trainable(*model_.model, config_.trainable);
    trainable_.insert(trainable.begin(), trainable.end());
    state_.frozen_hashes = hash_frozen();
    state_.threads = at::get_num_threads();
    model_.model->to(device_);
    model_.model->train();
    for (const auto& item : model_.model->named_parameters()) {
      if (trainable_.count(item.key()) != 0) weights_.emplace_back(item.key(), item.value());
    }
    if (is_contrastive()) {
      heads_ =
          ContrastiveHeads(model_.config.language.vocab, model_.config.vision.hidden, config_.seed);
      heads_->to(device_);
      for (const auto& item : heads_->named_parameters()) {
        weights_.emplace_back(kContrastivePrefix + item.key(), item.value());
      }
    }
    optimizer_.emplace(config_.optimizer, weights_, config_.steps);
  }

  std::map<std::string, std::string> hash_frozen() const {
    std::map<std::string, std::string> hashes;
    for (const auto& item : model_.model->named_parameters()) {
      if (trainable_.count(item.key()) == 0)
        hashes[item.key()] = weights_hash(*model_.model, {item.key()});
    }
    return hashes;
  }

  void continue_or_begin() {
    make_folders(folder_);
    if (auto saved = load_training_state(state_folder())) {
      check_same_config(config_, folder_);
      restore(*saved);
      spdlog::info("{}: continues after step {}", config_.name, steps_done());
    } else {
      write_json(folder_ + "/config.json", config_to_json(config_));
    }
    metrics_.emplace(folder_ + "/metrics.jsonl", state_.metrics_bytes);
  }

  void restore(SavedTraining& saved) {
    PV_CHECK(saved.state.frozen_hashes == state_.frozen_hashes,
             "{}: was begun with other frozen weights; delete the folder to start again",
             folder_);
    if (saved.state.threads != state_.threads) {
      spdlog::warn(
          "{}: begun with {} threads, continues with {}: the last bits of the result will differ "
          "from those of an "
          "uninterrupted run",
          config_.name,
          saved.state.threads,
          state_.threads);
    }
    const torch::NoGradGuard no_grad;
    std::map<std::string, torch::Tensor> tensors(saved.weights.begin(), saved.weights.end());
    PV_CHECK(tensors.size() == weights_.size(), "{}: state of another model", state_folder());
    for (auto& [name, weight] : weights_) {
      const auto found = tensors.find(name);
      PV_CHECK(found != tensors.end() && found->second.sizes() == weight.sizes(),
               "{}: state of another model: {} is missing or has another shape",
               state_folder(),
               name);
      weight.copy_(found->second);
    }
    optimizer_->restore(saved.moments, saved.state.total.steps);
    loader_.restore(saved.state.loader);
    const int64_t threads = state_.threads;
    state_ = std::move(saved.state);
    state_.threads = threads;
  }

  void step() {
    const auto begin = Clock::now();
    StepTotals now;
    now.steps = 1;
    torch::Tensor loss = torch::zeros({}, torch::TensorOptions(device_).dtype(torch::kFloat64));
    double weight = 0;
    std::string samples;
    for (int64_t i = 0; i < config_.accumulation; ++i) {
      const PackedBatch packed = loader_.next();
      if (!packed.sample_ids.empty())
        samples += (i > 0 ? ", " : "") + packed.sample_ids.front() + " ...";
      now.tokens += packed.num_tokens();
      for (const int64_t slices : packed.segment_slices) now.images += slices > 0 ? 1 : 0;
      loss += accumulate_gradients(packed, weight);
    }
    PV_CHECK(weight > 0,
             "stage {}: step {} has no target to learn from (samples {})",
             config_.name,
             steps_done() + 1,
             samples);
    now.loss = loss.item<double>() / weight;
    PV_CHECK(std::isfinite(now.loss),
             "stage {}: the loss of step {} is {} (samples {}); nothing was updated. Lower "
             "optimizer.learning_rate, or look at "
             "these samples; {} holds the last good state",
             config_.name,
             steps_done() + 1,
             std::abs(now.loss),  // the sign of a NaN says nothing
             samples,
             state_folder());
    const double learning_rate = optimizer_->learning_rate();
    const double grad_norm = optimizer_->step(1.0 / weight);
    now.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    record(now, learning_rate, grad_norm);
  }

  /// Forward and backward of one pack. Returns the summed loss; adds what it is to be divided by to
  /// `weight`.
  torch::Tensor accumulate_gradients(const PackedBatch& packed, double& weight) {
    const ComputeDtype guard(config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
    torch::Tensor loss;
    if (is_contrastive()) {
      const ContrastiveBatch batch = to_contrastive_batch(packed, device_);
      weight += static_cast<double>(batch.num_images());
      const torch::Tensor features =
          model_.model->vision_encoder->forward(batch.patches, batch.grids);
      loss = sigmoid_contrastive_loss(heads_->image_features(features, batch.patches_per_image),
                                      heads_->text_features(batch.text_ids, batch.text_offsets),
                                      heads_->log_temperature,
                                      heads_->bias,
                                      batch.same_text);
    } else {
      for (const float target : packed.loss_weights) weight += target;
      loss = model_.model->loss_sum(to_batch(packed, device_));
    }
    // A text-only pack has no graph when only the vision side learns.
    if (loss.requires_grad()) loss.backward();
    return loss.detach();
  }

  void record(const StepTotals& now, double learning_rate, double grad_norm) {
    const int64_t tenth = std::max<int64_t>(1, config_.steps / 10);
    if (steps_done() < tenth) state_.first.add(now);
    if (steps_done() >= config_.steps - tenth) state_.last.add(now);
    state_.total.add(now);
    state_.window.add(now);
    last_loss_ = now.loss;
    if (steps_done() % config_.log_every != 0 && steps_done() != config_.steps) return;
    const StepTotals& window = state_.window;
    metrics_->append({{"step", steps_done()},
                      {"loss", window.loss / static_cast<double>(window.steps)},
                      {"learning_rate", learning_rate},
                      {"grad_norm", grad_norm},
                      {"tokens_per_s", static_cast<double>(window.tokens) / window.seconds},
                      {"images_per_s", static_cast<double>(window.images) / window.seconds},
                      {"seconds", state_.total.seconds}});
    state_.window = {};
  }

  std::string note() const {
    const StepTotals& total = state_.total;
    return fmt::format("loss {:.4f}  {:.0f} tokens/s  {:.0f} images/s",
                       last_loss_,
                       static_cast<double>(total.tokens) / total.seconds,
                       static_cast<double>(total.images) / total.seconds);
  }

  void save_state() {
    TrainingState state = state_;
    state.metrics_bytes = metrics_->sync();
    state.loader = loader_.state();
    state.skipped = skipped();
    save_training_state(state_folder(), state, weights_, optimizer_->state());
  }

  /// Those listed before an interruption, then those of this process.
  std::vector<std::vector<std::string>> skipped() const {
    std::vector<std::vector<std::string>> result = state_.skipped;
    std::set<std::vector<std::string>> known(result.begin(), result.end());
    for (const SkippedSample& sample : loader_.skipped()) {
      std::vector<std::string> entry = {sample.source, sample.place, sample.reason};
      if (result.size() < kMaxListedSkipped && known.insert(entry).second)
        result.push_back(std::move(entry));
    }
    return result;
  }

  StageResult finish() {
    const StepTotals& total = state_.total;
    StageResult result;
    result.name = config_.name;
    result.steps = total.steps;
    result.seconds = total.seconds;
    result.first_loss = state_.first.loss / static_cast<double>(state_.first.steps);
    result.final_loss = state_.last.loss / static_cast<double>(state_.last.steps);
    result.tokens_per_s = static_cast<double>(total.tokens) / total.seconds;
    result.images_per_s = static_cast<double>(total.images) / total.seconds;
    result.samples = loader_.num_samples();
    result.skipped = loader_.num_skipped();
    result.checkpoint = folder_ + "/checkpoint";

    optimizer_.reset();
    model_.model->eval();
    model_.model->to(torch::kCPU);
    result.components = component_table();
    save_model(model_.model, tokenizer_path_, result.checkpoint);
    write_skipped();
    write_json(folder_ + "/result.json", result.to_json());
    std::filesystem::remove_all(state_folder());
    return result;
  }

  std::vector<ComponentRow> component_table() const {
    const std::map<std::string, std::string> hashes = hash_frozen();
    for (const auto& [name, hash] : hashes) {
      PV_CHECK(
          state_.frozen_hashes.at(name) == hash,
          "stage {}: the frozen tensor {} changed during the stage; its checkpoint is not written",
          config_.name,
          name);
    }
    std::vector<ComponentRow> rows;
    for (const auto& item : model_.model->named_parameters()) {
      const std::string component = component_of(item.key());
      if (rows.empty() || rows.back().component != component) {
        rows.emplace_back();
        rows.back().component = component;
      }
      ComponentRow& row = rows.back();
      row.tensors += 1;
      row.parameters += item.value().numel();
      if (trainable_.count(item.key()) == 0) continue;
      row.trainable_tensors += 1;
      row.trainable_parameters += item.value().numel();
    }
    return rows;
  }

  void write_skipped() const {
    std::string lines;
    for (const std::vector<std::string>& entry : skipped()) {
      const Json line = {{"file", entry[0]}, {"place", entry[1]}, {"reason", entry[2]}};
      lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    write_file_atomic(folder_ + "/skipped.jsonl", lines);
  }

  const StageConfig& config_;
  LoadedModel& model_;
  const std::string& tokenizer_path_;
  const std::string& folder_;
  const std::function<void(int64_t)>& after_step_;
  torch::Device device_;
  PromptEncoder encoder_;
  PackedLoader loader_;
  std::set<std::string> trainable_;
  NamedTensors
      weights_;  // what learns: trainable parameters, and the heads of the contrastive objective
  ContrastiveHeads heads_{nullptr};
  std::optional<Optimizer> optimizer_;
  std::optional<MetricsLog> metrics_;
  TrainingState state_;
  double last_loss_ = 0;
};

}  // namespace

Json StageResult::to_json() const { return config_to_json(*this); }

StageResult StageResult::from_json(const Json& json, const std::string& where) {
  return read_config<StageResult>(json, where);
}

StageResult run_stage(const StageConfig& config,
                      LoadedModel& model,
                      const std::string& tokenizer_path,
                      const std::string& folder,
                      const std::function<void(int64_t)>& after_step) {
  config.validate(config.name);
  const std::string result_file = folder + "/result.json";
  if (std::filesystem::exists(result_file)) {
    check_same_config(config, folder);
    StageResult result = StageResult::from_json(read_json(result_file), result_file);
    result.checkpoint = folder + "/checkpoint";  // the folder may have been moved
    load_weights(result.checkpoint, *model.model);
    std::filesystem::remove_all(folder + "/state");
    return result;
  }
  const ThreadCount threads(config.threads);
  return StageRun(config, model, tokenizer_path, folder, after_step).run();
}

}  // namespace pocketvlm
