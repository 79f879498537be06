#include "trainer/stage.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
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
#include "model/adapter.h"
#include "trainer/blank_picture.h"
#include "trainer/contrastive.h"
#include "trainer/distributed/divided_blocks.h"
#include "trainer/distributed/sharding.h"
#include "trainer/ema.h"
#include "trainer/feature_cache.h"
#include "trainer/freeze_table.h"
#include "trainer/optimizer.h"
#include "trainer/peak_speed.h"
#include "trainer/same_config.h"
#include "trainer/stage_log.h"
#include "trainer/stage_plan.h"
#include "trainer/state_store.h"
#include "trainer/state_writer.h"
#include "trainer/step_trace.h"
#include "trainer/thread_count.h"
#include "trainer/training_state.h"
#include "trainer/training_work.h"

namespace pocketvlm {
namespace {

constexpr const char* kContrastivePrefix = "contrastive.";
constexpr std::size_t kMaxListedSkipped = 1000;

using Clock = std::chrono::steady_clock;

torch::Device device_of(const StageConfig& config, const Communicator& ranks) {
  if (config.device == "cpu") return torch::kCPU;
  PV_CHECK(at::hasCUDA(),
           "stage {}: device is \"cuda\", but no CUDA device is usable; set it to \"cpu\"",
           config.name);
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(ranks.local_rank())};
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
           const std::function<void(int64_t)>& after_step,
           Communicator& ranks,
           bool changed)
      : config_(config),
        model_(model),
        tokenizer_path_(tokenizer_path),
        folder_(folder),
        after_step_(after_step),
        ranks_(ranks),
        store_(folder + "/state", &ranks),
        saved_(find_saved(changed)),
        packs_per_step_(saved_ && saved_->packs_per_step > 0 ? saved_->packs_per_step
                                                             : config.accumulation * ranks.size()),
        states_(folder + "/state", &ranks),
        device_(device_of(config, ranks)),
        encoder_(*model.tokenizer,
                 stage_prompt(config.input, model.config.prompt),
                 stage_image(config.input, model.config.image)),
        loader_(loader_config(config), encoder_, ranks.rank(), ranks.size(), packs_per_step_) {}

  StageResult run() {
    prepare_model();
    continue_or_begin();
    ranks_.watch(config_.distributed.timeout_s);
    peak_ = config_.peak_tflops > 0 ? config_.peak_tflops * 1e12 : measured_peak(device_, compute_type());
    std::optional<Progress> progress;
    if (ranks_.is_first()) progress.emplace(config_.name, config_.steps, steps_done());
    StepTrace trace(ranks_.is_first() ? config_.trace : std::nullopt, folder_ + "/trace.json");
    while (steps_done() < config_.steps) {
      trace.before_step(steps_done() + 1);
      step();
      trace.after_step(steps_done());
      if (progress) progress->update(steps_done(), note());
      if (all_written_) states_.complete();
      const bool due = config_.checkpoint_every > 0 && steps_done() % config_.checkpoint_every == 0;
      if (due || steps_done() == config_.steps) save_state();
      if (after_step_) after_step_(steps_done());
    }
    if (progress) progress->finish();
    ranks_.stop_watching();
    return finish();
  }

 private:
  int64_t steps_done() const { return state_.total.steps; }
  std::string state_folder() const { return folder_ + "/state"; }
  bool is_contrastive() const { return config_.objective == "contrastive"; }

  torch::Dtype compute_type() const {
    return config_.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  }

  /// The newest state of a stage like this one; notes what differs.
  std::optional<TrainingState> find_saved(bool changed) {
    std::optional<TrainingState> saved = store_.find();
    if (saved) changes_ = accepted_changes(config_, folder_, saved->packs_per_step, ranks_.size(), changed);
    return saved;
  }

  /// Packs of a step in which each rank has at most one.
  int64_t rounds_per_step() const { return (packs_per_step_ + ranks_.size() - 1) / ranks_.size(); }
  /// In the whole step, of round i.
  int64_t own_pack(int64_t i) const { return i * ranks_.size() + ranks_.rank(); }
  int64_t num_own_packs() const { return rounds_per_step() - (own_pack(rounds_per_step() - 1) < packs_per_step_ ? 0 : 1); }

  /// What learns; puts the low-rank updates into the model first.
  std::vector<std::string> learning_patterns() {
    std::vector<std::string> patterns = config_.trainable;
    if (!config_.lora) return patterns;
    const std::vector<std::string> layers = add_lora(*model_.model, *config_.lora, config_.seed);
    spdlog::info("{}: low-rank updates on {} layers", config_.name, layers.size());
    patterns.insert(patterns.end(), {"*.lora_a", "*.lora_b"});
    return patterns;
  }

  void prepare_model() {
    torch::manual_seed(config_.seed);
    check_same_weights();
    const std::vector<std::string> trainable = set_trainable(*model_.model, learning_patterns());
    trainable_.insert(trainable.begin(), trainable.end());
    state_.frozen_hashes = frozen_hashes(*model_.model, trainable_);
    state_.threads = at::get_num_threads();
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
    for (const auto& [name, weight] : weights_) tensors_.emplace_back(name, weight.sizes().vec());
    sharding_.emplace(config_.distributed, config_.recompute_blocks, *model_.model, device_, weights_, ranks_);
    optimizer_.emplace(config_.optimizer, sharding_->parts(), config_.steps, sharding_->exchange());
    if (config_.feature_cache.megabytes > 0) add_feature_cache();
    if (config_.ema_decay > 0) ema_.emplace(config_.ema_decay, sharding_->parts());
  }

  void add_feature_cache() {
    for (const auto& [name, weight] : weights_) {
      PV_CHECK(component_of(name) != "vision_encoder",
               "stage {}: feature_cache: {} learns, so features do not stay what they were; remove feature_cache, or leave the vision "
               "encoder out of trainable and lora.targets",
               config_.name,
               name);
    }
    features_.emplace(model_.model, config_.feature_cache.megabytes << 20);
  }

  /// Draws inside the model (dropout) are a matter of step and pack: not of ranks or of where a stage was interrupted. (A blank picture
  /// that a pack gets under full sharding draws, too.)
  void seed_random_draws(int64_t pack) const {
    torch::manual_seed(mix_keys({config_.seed, static_cast<uint64_t>(steps_done()), static_cast<uint64_t>(pack)}));
  }

  void check_same_weights() const {
    if (ranks_.size() == 1) return;
    const std::vector<std::string> hashes = ranks_.gather_texts(weights_hash(*model_.model, {"*"}));
    for (std::size_t r = 1; r < hashes.size(); ++r) {
      PV_CHECK(hashes[r] == hashes[0],
               "stage {}: rank {} starts with other weights than rank 0; all ranks must read the same checkpoint",
               config_.name,
               r);
    }
  }

  void continue_or_begin() {
    if (ranks_.is_first()) make_folders(folder_);
    if (saved_) {
      restore(std::move(*saved_));
      if (ranks_.is_first()) tell_of_continuing();
    } else if (ranks_.is_first()) {
      write_json(folder_ + "/config.json", config_to_json(config_));
    }
    state_.packs_per_step = packs_per_step_;
    if (!ranks_.is_first()) return;
    log_.emplace(folder_, state_.metrics_bytes);
    if (config_.log_samples) samples_log_.emplace(folder_ + "/samples.jsonl", state_.samples_bytes);
    const int64_t places = rounds_per_step() * ranks_.size();
    if (places != packs_per_step_) {
      spdlog::warn("{}: a step takes {} packs, as when the stage began; {} ranks could take {} in the same time",
                   config_.name,
                   packs_per_step_,
                   ranks_.size(),
                   places);
    }
  }

  void tell_of_continuing() const {
    spdlog::info("{}: continues after step {}", config_.name, steps_done());
    for (const ConfigChange& change : changes_) {
      spdlog::warn("{}: {} is {} from here on; it was {}", config_.name, change.field, change.after.dump(), change.before.dump());
    }
    note_changes(config_, folder_, steps_done(), changes_);
  }

  void restore(TrainingState saved) {
    PV_CHECK(saved.total.steps <= config_.steps,
             "{}: {} steps are done already; set steps to no less than that",
             folder_,
             saved.total.steps);
    PV_CHECK(saved.frozen_hashes == state_.frozen_hashes,
             "{}: was begun with other frozen weights; delete the folder to start again",
             folder_);
    if ((saved.threads != state_.threads || saved.ranks != ranks_.size()) && ranks_.is_first()) {
      spdlog::warn(
          "{}: begun with {} ranks of {} threads, continues with {} of {}: the last bits of the result will differ from "
          "those of an uninterrupted run",
          config_.name,
          saved.ranks,
          saved.threads,
          ranks_.size(),
          state_.threads);
    }
    const int64_t step = saved.total.steps;
    store_.restore_weights(step, sharding_->parts(), tensors_);
    store_.restore_moments(step, optimizer_->moments());
    if (ema_) store_.restore_averages(step, ema_->averages());
    optimizer_->set_steps_done(step);
    sharding_->spread_weights();
    loader_.restore(saved.loader);
    const int64_t threads = state_.threads;
    state_ = std::move(saved);
    state_.threads = threads;
    damaged_before_ = state_.damaged;
  }

  void step() {
    const auto begin = Clock::now();
    const double waited_before = ranks_.seconds_waited();
    double loading_s = 0;
    const PackShape work_before = work_;
    StepTotals now;
    now.steps = 1;
    torch::Tensor loss = torch::zeros({}, torch::TensorOptions(device_).dtype(torch::kFloat64));
    double weight = 0, emptied = 0;  // packs that lost every sample to damaged pictures
    std::string samples;
    Json sample_ids = Json::array();  // of the own packs
    const int64_t rounds = rounds_per_step();
    for (int64_t i = 0; i < rounds; ++i) {
      ranks_.phase(fmt::format("loading data for step {}", steps_done() + 1));
      const auto asked = Clock::now();
      PackedBatch packed = next_pack();
      loading_s += std::chrono::duration<double>(Clock::now() - asked).count();
      const bool own = own_pack(i) < packs_per_step_;  // else the pack is empty: other ranks have one more
      if (own && packed.num_tokens() == 0) emptied += 1;
      if (own && config_.log_samples) sample_ids.push_back(packed.sample_ids);
      if (!packed.sample_ids.empty())
        samples += (i > 0 ? ", " : "") + packed.sample_ids.front() + " ...";
      now.tokens += packed.num_tokens();
      now.images += packed.num_images;
      work_.add(packed.segment_lengths, packed.num_targets(), packed.grids);
      ranks_.phase(fmt::format("in step {}", steps_done() + 1));
      seed_random_draws(own_pack(i));
      loss += accumulate_gradients(std::move(packed), i + 1 == rounds, weight);
    }
    {
      RECORD_USER_SCOPE("reduce");
      sharding_->reduce_gradients();
    }
    double own_loss = 0;
    // On a GPU this is where the rank stands until its device has computed, and with that until the other ranks have come.
    ranks_.while_waiting([&] { own_loss = loss.item<double>(); });
    const std::vector<double> sums = ranks_.sum({own_loss,
                                                 weight,
                                                 static_cast<double>(now.tokens),
                                                 static_cast<double>(now.images),
                                                 emptied,
                                                 states_.written() ? 1.0 : 0.0});
    weight = sums[1];
    now.tokens = static_cast<int64_t>(sums[2]);
    now.images = static_cast<int64_t>(sums[3]);
    const bool nothing_left = weight == 0 && sums[4] > 0;
    all_written_ = static_cast<int>(sums[5]) == ranks_.size();
    PV_CHECK(weight > 0 || nothing_left,
             "stage {}: step {} has no target to learn from (samples {})",
             config_.name,
             steps_done() + 1,
             samples);
    const double scale = nothing_left ? 0 : 1.0 / weight;
    now.loss = nothing_left ? 0 : sums[0] / weight;
    const double learning_rate = optimizer_->learning_rate();
    const double grad_norm = optimizer_->gradient_norm(scale);
    const BadStep bad =
        nothing_left ? BadStep{"no picture of it could be decoded"} : judge_step(config_.guard, state_.guard, now.loss, grad_norm);
    if (bad.reason.empty()) {
      RECORD_USER_SCOPE("update");
      optimizer_->update(scale, grad_norm);
      if (ema_) ema_->update();
      note_good_step(state_.guard, now.loss, grad_norm);
    } else if (nothing_left) {  // no fault of the model: the guard does not count it
      if (ranks_.is_first()) spdlog::warn("stage {}: step {}: {}; nothing was updated", config_.name, steps_done() + 1, bad.reason);
      optimizer_->skip();
    } else {
      refuse_step(bad, samples);
    }
    {
      RECORD_USER_SCOPE("spread");
      sharding_->spread_weights();
    }
    now.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (bad.reason.empty()) {
      waited_s_ += ranks_.seconds_waited() - waited_before;
      loading_s_ += loading_s;
      record(now, learning_rate, grad_norm);
    } else {
      work_ = work_before;  // its time does not count, either
      record_refused(now, bad.reason);
    }
    if (config_.log_samples) log_samples(sample_ids);
  }

  /// The packs of the step in their order, whichever rank had them. Collective.
  void log_samples(const Json& own) {
    const std::vector<std::string> texts = ranks_.gather_texts(own.dump(-1, ' ', false, Json::error_handler_t::replace));
    if (!samples_log_) return;
    std::vector<Json> of_ranks;
    for (const std::string& text : texts) of_ranks.push_back(parse_json(text, "ids of a rank"));
    Json packs = Json::array();
    for (int64_t i = 0; i < packs_per_step_; ++i) {
      packs.push_back(of_ranks[static_cast<std::size_t>(i % ranks_.size())][static_cast<std::size_t>(i / ranks_.size())]);
    }
    samples_log_->append({{"step", steps_done()}, {"packs", std::move(packs)}});
  }

  PackedBatch next_pack() {
    RECORD_USER_SCOPE("loading");
    return loader_.next();
  }

  /// All ranks come here together: loss and norm are sums over all of them.
  void refuse_step(const BadStep& bad, const std::string& own_samples) {
    std::string samples;
    for (const std::string& of_rank : ranks_.gather_texts(own_samples)) samples += (samples.empty() ? "" : ", ") + of_rank;
    const bool stop = note_bad_step(config_.guard, state_.guard, bad);
    if (stop) states_.finish();
    const std::string text = fmt::format(
        "stage {}: step {}: {} (samples {}); nothing was updated", config_.name, steps_done() + 1, bad.reason, samples);
    PV_CHECK(!stop,
             "{}. Lower optimizer.learning_rate (--resume --changed goes on with it), or look at these samples; guard.max_bad_steps = {} "
             "such steps in a row are skipped, --resume goes on with more. {} holds the last good state",
             text,
             config_.guard.max_bad_steps,
             state_folder());
    if (ranks_.is_first()) spdlog::warn("{}", text);
    optimizer_->skip();
  }

  void record_refused(const StepTotals& now, const std::string& reason) {
    state_.total.steps += 1;
    state_.total.seconds += now.seconds;
    if (log_) log_->append({{"step", steps_done()}, {"skipped", reason}, {"seconds", state_.total.seconds}});
  }

  /// Forward and backward of one pack, maybe the step's last. Returns the summed loss; adds what it is to be divided by to
  /// `weight`.
  torch::Tensor accumulate_gradients(PackedBatch packed, bool last, double& weight) {
    const ComputeDtype guard(compute_type());
    const UseBlockRunner runner(sharding_->runner());
    const torch::Tensor loss = forward(std::move(packed), weight);
    if (last) sharding_->expect_last_backward();
    // A text-only pack has no graph when only the vision side learns.
    if (loss.requires_grad()) {
      RECORD_USER_SCOPE("backward");
      loss.backward();
    }
    return loss.detach();
  }

  torch::Tensor forward(PackedBatch packed, double& weight) {
    RECORD_USER_SCOPE("forward");
    if (is_contrastive() && packed.num_tokens() == 0) {  // the vision side runs as on other ranks
      const Batch blank = to_batch(with_blank_picture(packed, model_.config), device_);
      return 0 * model_.model->vision_features(blank.patches, blank.grids).sum();
    }
    if (is_contrastive()) {
      const ContrastiveBatch batch = to_contrastive_batch(packed, device_);
      weight += static_cast<double>(batch.num_images());
      const torch::Tensor features = model_.model->vision_features(batch.patches, batch.grids);
      return sigmoid_contrastive_loss(heads_->image_features(features, batch.patches_per_image),
                                      heads_->text_features(batch.text_ids, batch.text_offsets),
                                      heads_->log_temperature,
                                      heads_->bias,
                                      batch.same_text);
    }
    for (const float target : packed.loss_weights) weight += target;
    if (packed.num_tokens() == 0) packed = with_blank_text({});
    if (needs_blank_picture(packed)) packed = with_blank_picture(std::move(packed), model_.config);
    const Batch batch = to_batch(packed, device_);
    if (!features_ || !batch.patches.defined()) return model_.model->loss_sum(batch);
    return model_.model->loss_sum(batch, features_->features(batch.patches, batch.grids));
  }

  /// When blocks are gathered from all ranks, all must run the same ones: a pack of text beside packs with pictures.
  bool needs_blank_picture(const PackedBatch& packed) const {
    if (!sharding_->gathers_blocks()) return false;
    const double with_pictures = ranks_.sum({packed.grids.empty() ? 0.0 : 1.0}).front();
    return packed.grids.empty() && with_pictures > 0;
  }

  void record(const StepTotals& now, double learning_rate, double grad_norm) {
    const int64_t tenth = std::max<int64_t>(1, config_.steps / 10);
    if (steps_done() < tenth) state_.first.add(now);
    if (steps_done() >= config_.steps - tenth) state_.last.add(now);
    state_.total.add(now);
    state_.window.add(now);
    last_loss_ = now.loss;
    work_seconds_ += now.seconds;
    if (steps_done() % config_.log_every != 0 && steps_done() != config_.steps) return;
    const StepTotals& window = state_.window;
    // Work of this rank's packs, and as much for each of the others.
    const double operations = training_operations(model_.config, learning_components(config_), work_) *
                              static_cast<double>(packs_per_step_) / static_cast<double>(std::max<int64_t>(1, num_own_packs()));
    mfu_ = operations / (work_seconds_ * peak_ * ranks_.size());
    const double communication_wait = waited_s_ / work_seconds_, loading_wait = loading_s_ / work_seconds_;
    work_ = {};
    work_seconds_ = waited_s_ = loading_s_ = 0;
    if (log_) {
      Json line = {{"step", steps_done()},
                   {"loss", window.loss / static_cast<double>(window.steps)},
                   {"learning_rate", learning_rate},
                   {"grad_norm", grad_norm},
                   {"tokens_per_s", static_cast<double>(window.tokens) / window.seconds},
                   {"images_per_s", static_cast<double>(window.images) / window.seconds},
                   {"mfu", mfu_},
                   {"fill", static_cast<double>(window.tokens) /
                                static_cast<double>(window.steps * state_.packs_per_step * config_.data.batch_tokens)},
                   {"loading_wait", loading_wait},
                   {"seconds", state_.total.seconds}};
      if (ranks_.size() > 1 && device_.is_cpu()) line["communication_wait"] = communication_wait;
      log_->append(line);
    }
    state_.window = {};
  }

  std::string note() const {
    const StepTotals& total = state_.total;
    return fmt::format("loss {:.4f}  {:.0f} tokens/s  {:.0f} images/s  MFU {:.0f} %",
                       last_loss_,
                       static_cast<double>(total.tokens) / total.seconds,
                       static_cast<double>(total.images) / total.seconds,
                       100 * mfu_);
  }

  void save_state() {
    ranks_.phase(fmt::format("saving the state of step {}", steps_done()));
    note_skipped();
    TrainingState state = state_;
    state.ranks = ranks_.size();
    std::vector<std::string> logs;
    if (log_) {
      state.metrics_bytes = log_->bytes();
      logs.push_back(log_->path());
    }
    if (samples_log_) {
      state.samples_bytes = samples_log_->bytes();
      logs.push_back(samples_log_->path());
    }
    state.loader = loader_.state();
    const StateSlices slices = {written(sharding_->parts()),
                                written(optimizer_->moments()),
                                ema_ ? written(ema_->averages()) : std::vector<TensorSlice>()};
    // After the last step there is nothing left to do beside.
    if (config_.checkpoint_in_background && steps_done() < config_.steps) {
      states_.begin(state, slices, logs);
    } else {
      states_.save(state, slices, logs);
    }
  }

  /// Of slices that every rank has, those that this one writes.
  std::vector<TensorSlice> written(const std::vector<TensorSlice>& slices) const {
    std::vector<TensorSlice> own;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      if (sharding_->writes(i)) own.push_back(slices[i]);
    }
    return own;
  }

  /// Brings count and list of what was left out up to date. All ranks refuse the same samples; a damaged picture is seen by
  /// the rank alone that decodes it, so these are gathered. Collective.
  void note_skipped() {
    std::set<std::vector<std::string>> known(state_.skipped.begin(), state_.skipped.end());
    const auto list = [&](std::vector<std::string> entry) {
      if (state_.skipped.size() < kMaxListedSkipped && known.insert(entry).second) state_.skipped.push_back(std::move(entry));
    };
    for (const SkippedSample& sample : loader_.skipped()) list({sample.source, sample.place, sample.reason});
    state_.damaged = damaged_before_ + static_cast<int64_t>(ranks_.sum({static_cast<double>(loader_.num_damaged())}).front());
    if (state_.damaged == damaged_before_) return;
    Json own = Json::array();
    for (const SkippedSample& sample : loader_.damaged()) own.push_back({sample.source, sample.place, sample.reason});
    for (const std::string& text : ranks_.gather_texts(own.dump(-1, ' ', false, Json::error_handler_t::replace))) {
      for (const Json& entry : parse_json(text, "damaged pictures of a rank")) list(entry.get<std::vector<std::string>>());
    }
  }

  StageResult finish() {
    const StepTotals& total = state_.total;
    PV_CHECK(state_.guard.good_steps + state_.guard.bad_steps > 0,
             "stage {}: no picture of any step could be decoded; {} samples were left out, the first one: {}",
             config_.name,
             state_.damaged,
             fmt::join(state_.skipped.front(), ": "));
    StageResult result;
    result.name = config_.name;
    result.steps = total.steps;
    result.seconds = total.seconds;
    // A tenth whose steps were all refused has no loss.
    result.first_loss = state_.first.loss / static_cast<double>(std::max<int64_t>(1, state_.first.steps));
    result.final_loss = state_.last.loss / static_cast<double>(std::max<int64_t>(1, state_.last.steps));
    result.tokens_per_s = static_cast<double>(total.tokens) / total.seconds;
    result.images_per_s = static_cast<double>(total.images) / total.seconds;
    const LoaderState data = loader_.state();
    result.samples = data.num_samples - state_.damaged;
    result.skipped = data.num_skipped + state_.damaged;
    result.split = data.num_split;
    result.checkpoint = folder_ + "/checkpoint";
    result.packs_per_step = state_.packs_per_step;
    result.bad_steps = state_.guard.bad_steps;
    result.loss_spikes = state_.guard.loss_spikes;

    if (features_) {
      spdlog::info("{}: {} of {} picture slices had their features cached", config_.name, features_->num_found(), features_->num_seen());
    }
    features_.reset();
    optimizer_.reset();
    const NamedTensors averages = whole_averages();
    const bool whole = sharding_->restore_model(torch::Device(torch::kCPU), /*first_alone=*/true);
    sharding_.reset();
    model_.model->eval();
    model_.model->to(torch::kCPU);
    if (whole) result.components = freeze_table(*model_.model, trainable_, state_.frozen_hashes, config_.name);
    if (config_.lora && ranks_.is_first()) {
      save_adapter(*model_.model, model_.config, *config_.lora, config_.init_from, folder_ + "/adapter");
    }
    if (config_.ema_decay > 0 && ranks_.is_first()) {
      save_averaged_model(model_, averages, config_.lora ? &*config_.lora : nullptr, tokenizer_path_, folder_ + "/checkpoint-ema");
    }
    if (whole) merge_lora(*model_.model);
    if (ranks_.is_first()) {
      save_model(model_.model, tokenizer_path_, result.checkpoint);
      write_skipped();
      write_json(folder_ + "/result.json", result.to_json());
      std::filesystem::remove_all(state_folder());
    }
    // Rank 0 alone may have seen the whole model.
    const std::vector<std::string> results = ranks_.gather_texts(ranks_.is_first() ? result.to_json().dump() : "");
    return StageResult::from_json(parse_json(results.front(), "rank 0's result"), "rank 0's result");
  }

  /// Rank 0 gets the averages, on the CPU; the others get nothing. Collective.
  NamedTensors whole_averages() {
    NamedTensors result;
    if (!ema_) return result;
    std::vector<torch::Tensor> values;
    for (const TensorSlice& average : ema_->averages()) values.push_back(average.values);
    sharding_->put_together(values, [&](const std::string& name, const torch::Tensor& whole) {
      if (ranks_.is_first()) result.emplace_back(name, whole.to(torch::kCPU, whole.scalar_type(), false, /*copy=*/true));
    });
    ema_.reset();
    return result;
  }

  void write_skipped() const {
    std::string lines;
    for (const std::vector<std::string>& entry : state_.skipped) {
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
  Communicator& ranks_;
  StateStore store_;
  std::vector<ConfigChange> changes_;   // of the config, since the saved state was written
  std::optional<TrainingState> saved_;  // to continue from; moved from when it was restored
  int64_t packs_per_step_;              // of all ranks
  StateWriter states_;
  bool all_written_ = false;  // by all ranks, of the state in progress
  torch::Device device_;
  PromptEncoder encoder_;
  PackedLoader loader_;
  std::set<std::string> trainable_;
  NamedTensors
      weights_;  // what learns: trainable parameters, and the heads of the contrastive objective
  ContrastiveHeads heads_{nullptr};
  StateStore::Tensors tensors_;  // their names and shapes
  std::optional<Sharding> sharding_;
  std::optional<Optimizer> optimizer_;
  std::optional<Ema> ema_;
  std::optional<FeatureCache> features_;  // of a frozen vision encoder
  std::optional<StageLog> log_;  // rank 0 alone
  std::optional<MetricsLog> samples_log_;  // rank 0 alone, under config.log_samples
  TrainingState state_;
  int64_t damaged_before_ = 0;  // by the processes that were interrupted
  PackShape work_;  // of this rank, in the good steps since the last line of metrics
  double work_seconds_ = 0;
  double waited_s_ = 0;  // of them, for other ranks
  double loading_s_ = 0;  // of them, for packs
  double peak_ = 0;  // operations a second of one rank
  double mfu_ = 0;
  double last_loss_ = 0;
};

}  // namespace

LoadedModel load_stage_model(const StageConfig& config, const std::string& checkpoint) {
  if (config.distributed.sharding != "full") return load_model(checkpoint);
  return load_model(checkpoint, torch::kFloat32, is_in_transformer_block);
}

Json StageResult::to_json() const { return config_to_json(*this); }

StageResult StageResult::from_json(const Json& json, const std::string& where) {
  return read_config<StageResult>(json, where);
}

StageResult run_stage(const StageConfig& config,
                      LoadedModel& model,
                      const std::string& tokenizer_path,
                      const std::string& folder,
                      const std::function<void(int64_t)>& after_step,
                      Communicator* ranks,
                      bool changed) {
  config.validate(config.name);
  Communicator alone{Communicator::Alone()};
  if (ranks == nullptr) ranks = &alone;
  const std::string result_file = folder + "/result.json";
  if (std::filesystem::exists(result_file)) {
    StageResult result = StageResult::from_json(read_json(result_file), result_file);
    check_same_config(config, folder, result.packs_per_step, ranks->size());
    result.checkpoint = folder + "/checkpoint";  // the folder may have been moved
    load_weights(result.checkpoint, *model.model);
    if (ranks->is_first()) std::filesystem::remove_all(folder + "/state");
    return result;
  }
  ranks->barrier();  // rank 0 is about to write here
  const ThreadCount threads(config.threads);
  return StageRun(config, model, tokenizer_path, folder, after_step, *ranks, changed).run();
}

}  // namespace pocketvlm
