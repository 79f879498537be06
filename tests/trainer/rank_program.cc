/// One rank of a job that distributed_test starts with mpirun. The one argument is a JSON object:
///   task         "train" (a tiny stage in `folder`), "gradients" (of its first step, written to `folder` as a state; what was started beside
///                it to `folder`/started-RANK.json), "too-large" (a message that MPI cannot send, then a sum) or "device" (rank 0 waits for its device,
///                and rank 1 does not come)
///   tokenizer    file; folder; sharding; overlap; accumulation; steps; checkpoint_every; in_background; ema_decay; recompute; trainable; orthogonalized;
///                clip_norm; timeout_s; log_samples; workers; max_bad_steps; lora_dropout (updates of the decoder's attention)
///   bucket_numbers   of "gradients"
///   hold         of "gradients": rank 1 finds its first gradients of a block only when rank 0 is in the backward of the block before
///   phases       of "train", a folder: PID in it says what that rank is doing
///   pictures     a file of conversations, instead of scenes; pack_tokens: room for one of its samples
///   start        of "train", a checkpoint to start from; mapped: as a stage does, or whole
///                What "train" leaves of the model in memory is in `folder`/left-RANK.json
///   fault        "" | "kill" | "freeze" | "slow" | "throw" | "full-disk" | "nan" (weights, for one step): what happens to `fault_rank`
///                (-1: to all) after `fault_step`
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "tiny_stage.h"
#include "trainer/blank_picture.h"
#include "trainer/distributed/divided_blocks.h"
#include "trainer/distributed/sharding.h"
#include "trainer/stage.h"
#include "trainer/state_writer.h"

namespace pocketvlm {
namespace {

LoadedModel tiny(const Json& job, const StageConfig& config) {
  if (job.contains("start")) return job.value("mapped", true) ? load_stage_model(config, job["start"]) : load_model(job["start"]);
  LoadedModel loaded;
  loaded.config = test::tiny_model_config();
  loaded.model = VisionLanguageModel(loaded.config, 1);
  loaded.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(job["tokenizer"].get<std::string>()));
  loaded.encoder =
      std::make_unique<PromptEncoder>(*loaded.tokenizer, loaded.config.prompt, loaded.config.image);
  return loaded;
}

/// Pictures beside texts without any, so that ranks hold packs of both kinds.
StageConfig stage(const Json& job) {
  StageConfig config = test::tiny_stage("ranks");
  config.data.batch_tokens = 64;
  config.data.max_tokens = 64;
  config.data.workers = job.value("workers", 0);
  SourceConfig texts = config.data.sources[0];
  texts.scenes.tasks = {{"text", 1.0}};
  texts.weight = 2.0;
  config.data.sources.push_back(texts);
  if (job.contains("pictures")) {
    config.data.sources[0] = SourceConfig{};
    config.data.sources[0].kind = "conversations";
    config.data.sources[0].path = job["pictures"].get<std::string>();
    config.data.sources[1].weight = 0.2;
    config.data.batch_tokens = config.data.max_tokens = job.value("pack_tokens", 44);  // one picture a pack
  }
  config.optimizer.eps = 1e-4;  // Adam would turn the rounding of near-zero gradients into whole steps
  config.log_every = 1;
  config.seed = 3;
  config.accumulation = job.value("accumulation", 1);
  config.steps = job.value("steps", 4);
  config.checkpoint_every = job.value("checkpoint_every", 0);
  config.checkpoint_in_background = job.value("in_background", true);
  config.recompute_blocks = job.value("recompute", false);
  config.ema_decay = job.value("ema_decay", 0.0);
  config.distributed.sharding = job.value("sharding", "replicated");
  config.distributed.overlap = job.value("overlap", true);
  config.distributed.timeout_s = job.value("timeout_s", 60.0);
  config.guard.max_bad_steps = job.value("max_bad_steps", 0);
  if (job.contains("lora_dropout")) config.lora = LoraConfig{2, 4, job["lora_dropout"].get<double>(), {"language.layers.*.self_attn.*_proj"}};
  config.log_samples = job.value("log_samples", false);
  config.trainable = job.value("trainable", std::vector<std::string>{"*"});
  config.optimizer.clip_norm = job.value("clip_norm", config.optimizer.clip_norm);
  config.optimizer.orthogonalized = job.value("orthogonalized", std::vector<std::string>{});
  return config;
}

void suffer(const std::string& fault) {
  if (fault == "kill") ::raise(SIGKILL);
  if (fault == "freeze") ::raise(SIGSTOP);
  if (fault == "slow") std::this_thread::sleep_for(std::chrono::seconds(60));
  if (fault == "throw") fail("this rank has had enough");
  if (fault == "full-disk") {  // a limit on file size refuses writes as a full disk does
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small = {6000, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &small);
  }
}

/// Every rank overwrites one line, so that whoever kills it can say what it was doing.
void tell_phases(const std::string& folder, Communicator& ranks) {
  const int fd = ::open(fmt::format("{}/{}", folder, ::getpid()).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  PV_CHECK(fd >= 0, "{}: cannot be written", folder);
  ranks.on_phase([fd](const std::string& what) {
    const std::string line = fmt::format("{:<60}\n", what);
    [[maybe_unused]] const auto written = ::pwrite(fd, line.data(), line.size(), 0);
  });
}

void train(const Json& job, Communicator& ranks) {
  if (job.contains("phases")) tell_phases(job["phases"].get<std::string>(), ranks);
  const StageConfig config = stage(job);
  LoadedModel model = tiny(job, config);
  const int64_t fault_step = job.value("fault_step", -1);
  const std::string fault = job.value("fault", "");
  const int fault_rank = job.value("fault_rank", fault == "nan" ? -1 : -2);
  const bool is_meant = fault_rank == -1 || fault_rank == ranks.rank();
  torch::Tensor good;
  const auto poison = [&](int64_t step) {
    const torch::NoGradGuard no_grad;
    torch::Tensor weight = model.model->named_parameters()["language.norm.weight"];
    if (step == fault_step) {
      good = weight.detach().clone();
      weight.fill_(std::numeric_limits<float>::quiet_NaN());
    }
    if (step == fault_step + 1) weight.copy_(good);
  };
  const StageResult result = run_stage(
      config,
      model,
      job["tokenizer"].get<std::string>(),
      job["folder"].get<std::string>(),
      [&](int64_t step) {
        if (is_meant && fault == "nan") poison(step);
        if (is_meant && step == fault_step) suffer(fault);
      },
      &ranks);
  int64_t numbers = 0;
  for (const auto& item : model.model->named_parameters()) numbers += is_in_transformer_block(item.key()) ? item.value().numel() : 0;
  write_json(fmt::format("{}/left-{}.json", job["folder"].get<std::string>(), ranks.rank()),
             {{"block_numbers", numbers}, {"result", result.to_json()}});
}

/// What ranks have in progress while one of them computes.
struct Started {
  std::vector<int64_t> in_blocks;  // collectives started since the last pack began, when a block's body computes
  bool done_in_blocks = true;      // they end while the body still computes, and nobody waits for them
  bool held = true;                // rank 0 went on without the gradients of rank 1
  bool pictures = false;           // in the last pack
  int64_t after_backward = 0;      // before reduce_gradients, beyond those of blocks
};

bool comes_true(const std::function<bool()>& condition) {
  for (int i = 0; i < 30000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

/// What the optimizer would get in the first step, stored like weights.
void gradients(const Json& job, Communicator& ranks) {
  const StageConfig config = stage(job);
  LoadedModel model = tiny(job, config);
  set_trainable(*model.model, config.trainable);
  model.model->train();
  NamedTensors weights;
  for (const auto& item : model.model->named_parameters()) {
    if (item.value().requires_grad()) weights.emplace_back(item.key(), item.value());
  }
  Sharding sharding(config.distributed,
                    config.recompute_blocks,
                    *model.model,
                    torch::kCPU,
                    weights,
                    ranks,
                    job.value("bucket_numbers", Sharding::kBucketNumbers));
  PackedLoader loader(config.data, *model.encoder, ranks.rank(), ranks.size());
  Started started;
  int64_t before = 0;
  bool last = false;
  const auto num_blocks = static_cast<std::size_t>(model.config.vision.num_layers + model.config.language.num_layers);
  const auto watch = [&](const BlockBody& body) -> BlockBody {
    return [&, body](const torch::Tensor& x) {
      const int64_t now = ranks.num_started();
      started.in_blocks.push_back(now - before);
      const bool hold = last && job.value("hold", false);
      const std::string reached = job["folder"].get<std::string>() + "/reached";
      if (hold && ranks.rank() == 0 && started.in_blocks.size() == num_blocks + 2) write_file_atomic(reached, "");
      if (hold && ranks.rank() == 1 && started.in_blocks.size() == num_blocks + 1) {
        started.held = comes_true([&] { return std::filesystem::exists(reached); });
      }
      started.done_in_blocks &= comes_true([&] { return ranks.num_done() >= now; });
      return body(x);
    };
  };
  const BlockRunner watched = [&](const torch::nn::Module& block, const torch::Tensor& x, const BlockBody& body) {
    return sharding.runner()(block, x, watch(body));
  };
  const UseBlockRunner runner(sharding.runner() ? watched : sharding.runner());
  for (int64_t i = 0; i < config.accumulation; ++i) {
    PackedBatch packed = loader.next();
    started.pictures = !packed.grids.empty();
    if (packed.grids.empty() && sharding.gathers_blocks()) packed = with_blank_picture(packed, model.config);
    started.in_blocks.clear();
    last = i + 1 == config.accumulation;
    before = ranks.num_started();
    const torch::Tensor loss = model.model->loss_sum(to_batch(packed));
    if (last) sharding.expect_last_backward();
    if (loss.requires_grad()) loss.backward();
  }
  if (!sharding.gathers_blocks()) started.after_backward = ranks.num_started() - before;
  sharding.reduce_gradients();
  std::vector<TensorSlice> slices;
  for (std::size_t i = 0; i < sharding.parts().size(); ++i) {
    TensorSlice slice = sharding.parts()[i];
    const torch::Tensor gradient = slice.values.grad();
    slice.values = gradient.defined() ? gradient : torch::zeros_like(slice.values);
    if (sharding.writes(i)) slices.push_back(slice);
  }
  TrainingState state;
  state.total.steps = 1;
  StateWriter(job["folder"].get<std::string>(), &ranks).save(state, {slices, {}, {}});
  write_json(fmt::format("{}/started-{}.json", job["folder"].get<std::string>(), ranks.rank()),
             {{"in_blocks", started.in_blocks},
              {"done_in_blocks", started.done_in_blocks},
              {"held", started.held},
              {"pictures", started.pictures},
              {"after_backward", started.after_backward}});
}

void device(Communicator& ranks) {
  ranks.watch(2);
  ranks.barrier();
  const auto a_minute = [] { std::this_thread::sleep_for(std::chrono::seconds(60)); };
  if (ranks.is_first()) ranks.while_waiting(a_minute);
  ranks.phase("loading data for step 9");
  a_minute();
}

/// Says what went wrong with the one collective and what the next one gave.
void too_large(Communicator& ranks) {
  float number = 0;  // never read
  const torch::Tensor part = torch::from_blob(&number, {int64_t{1} << 31}, torch::kFloat32);
  Exchange exchange = ranks.start_all_gather(part);
  const double sum = ranks.sum({1.0}).front();
  try {
    exchange.wait();
  } catch (const Error& error) {
    fail("{}; the sum is {}", error.what(), sum);
  }
}

}  // namespace
}  // namespace pocketvlm

int main(int /*argc*/, char** argv) {
  using namespace pocketvlm;
  set_up_logging();
  Communicator ranks;
  try {
    const Json job = parse_json(argv[1], "job");
    if (job["task"] == "gradients") gradients(job, ranks);
    else if (job["task"] == "too-large") too_large(ranks);
    else if (job["task"] == "device") device(ranks);
    else train(job, ranks);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm: rank %d: %s\n", ranks.rank(), error.what());
    ranks.abort(exit_status(error));
    return exit_status(error);
  }
}
