#include "trainer/bench_training.h"

#include <algorithm>

#include "model/vision_language_model.h"
#include "trainer/bench_device.h"
#include "trainer/optimizer.h"
#include "trainer/peak_speed.h"
#include "trainer/training_work.h"

namespace pocketvlm {
namespace {

/// `lengths.size()` samples: a picture and a text whose every token is to be learned, with padding up to `padded` tokens that
/// nobody learns.
Batch random_batch(const BenchShapes& shapes, const std::vector<int64_t>& lengths, int64_t padded, torch::Device device) {
  const ModelConfig& model = shapes.model;
  const int64_t queries = model.projector.num_queries, patches = shapes.patches();
  const auto samples = static_cast<int64_t>(lengths.size());
  const auto integers = torch::TensorOptions().dtype(torch::kInt64);
  Batch batch;
  std::vector<torch::Tensor> ids, labels, positions, visual_positions;
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    const torch::Tensor text = torch::randint(5, model.language.vocab, {length}, integers);
    const int64_t padding = std::max<int64_t>(0, padded - length), tokens = queries + length + padding;
    ids.push_back(torch::cat({torch::zeros({queries}, integers), text, torch::zeros({padding}, integers)}));
    labels.push_back(torch::cat({torch::full({queries - 1}, -100, integers), text, torch::full({1 + padding}, -100, integers)}));
    positions.push_back(torch::arange(tokens, integers));
    visual_positions.push_back(torch::arange(begin, begin + queries, integers));
    begin += tokens;
    batch.segment_lengths.push_back(tokens);
    batch.grids.push_back({model.vision.position_side, model.vision.position_side});
  }
  batch.input_ids = torch::cat(ids);
  batch.labels = torch::cat(labels);
  batch.position_ids = torch::cat(positions);
  batch.loss_weights = (batch.labels >= 0).to(torch::kFloat32);
  batch.patches = torch::randn({samples * patches, 3 * model.image.patch_size * model.image.patch_size});
  batch.visual_positions = torch::cat(visual_positions);
  batch.visual_rows = torch::arange(samples * queries, integers);
  for (torch::Tensor* tensor : {&batch.input_ids, &batch.position_ids, &batch.labels, &batch.loss_weights, &batch.patches,
                                &batch.visual_positions, &batch.visual_rows}) {
    *tensor = tensor->to(device);
  }
  return batch;
}

OptimizerConfig bench_optimizer() {
  OptimizerConfig optimizer;
  optimizer.learning_rate = 1e-4;
  optimizer.schedule = "constant";
  optimizer.warmup_steps = 0;
  optimizer.weight_decay = 0.01;
  optimizer.beta2 = 0.999;
  optimizer.clip_norm = 1.0;
  return optimizer;
}

}  // namespace

BenchResult bench_training(const BenchSettings& settings) {
  const ModelConfig& config = settings.shapes.model;
  const torch::Dtype dtype = settings.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  const torch::Device device = bench_device(settings.device);
  const std::vector<std::string> trainable = {settings.task == "stage1" ? "projector.*" : "*"};
  torch::manual_seed(0);
  VisionLanguageModel model(config, 0);
  model->to(device);
  set_trainable(*model, trainable);
  model->train();
  BenchResult result;
  std::vector<std::pair<std::string, torch::Tensor>> weights;
  for (const auto& item : model->named_parameters()) {
    result.parameters += item.value().numel();
    if (item.value().requires_grad()) weights.emplace_back(item.key(), item.value());
  }
  Optimizer optimizer(bench_optimizer(), weights, settings.steps + 1);
  PackShape work;
  for (int64_t step = 0; step <= settings.steps; ++step) {
    const std::vector<int64_t> lengths = bench_lengths(settings.batch, static_cast<uint64_t>(step), 8, settings.longest_text);
    const int64_t padded = settings.padded ? *std::max_element(lengths.begin(), lengths.end()) : 0;
    const Batch batch = random_batch(settings.shapes, lengths, padded, device);
    int64_t targets = 0;
    for (const int64_t length : lengths) targets += length;
    const int64_t useful = targets + settings.shapes.model.projector.num_queries * settings.batch;
    const double seconds = seconds_on(device, [&] {
      {
        const ComputeDtype guard(dtype);
        model->loss_sum(batch).backward();
      }
      optimizer.step(1.0 / static_cast<double>(targets));
    });
    if (step == 0) continue;  // warms up
    result.seconds.push_back(seconds);
    result.useful += static_cast<double>(useful);
    work.add(batch.segment_lengths, targets, batch.grids);
  }
  const double operations = training_operations(config, LearningComponents::of(trainable), work);
  result.peak_device_mib = peak_device_mib(device);  // before the products below take some
  const double peak = measured_peak(device, dtype);
  double total = 0;
  for (const double seconds : result.seconds) total += seconds;
  result.details = {{"operations_per_step", operations / static_cast<double>(settings.steps)},
                    {"peak_operations_per_s", peak},
                    {"mfu", operations / total / peak},
                    {"roofline",
                     fmt::format("{:.0f} of {:.0f} GFLOP/s that large {} products reach here: {:.0f} % of the time would do",
                                 operations / total / 1e9,
                                 peak / 1e9,
                                 settings.dtype,
                                 100 * operations / total / peak)}};
  return result;
}

}  // namespace pocketvlm
