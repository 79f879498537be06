#include "exporter/block_errors.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "model/batch.h"
#include "model/block_runner.h"

namespace pocketvlm {
namespace {

Batch batch_of(const EncodedChat& chat) {
  EncodedSample sample;
  sample.chat = chat;
  PackedBatch packed;
  append_sample(sample, packed);
  return to_batch(packed);
}

/// What the blocks that run meanwhile hand on, in order; float32.
class TrainerBlocks {
 public:
  const std::vector<torch::Tensor>& outputs() const { return outputs_; }

 private:
  std::vector<torch::Tensor> outputs_;
  BlockRunner runner_ = [this](const torch::nn::Module&, const torch::Tensor& x, const BlockBody& body) {
    torch::Tensor y = body(x);
    outputs_.push_back(y.to(torch::kFloat32));
    return y;
  };
  UseBlockRunner use_{runner_};
};

/// The same on the phone, by name. A long prompt runs in passes, whose rows follow each other.
class PhoneBlocks {
 public:
  explicit PhoneBlocks(Session& session) : session_(session) {
    session.watch_blocks([this](const std::string& block, std::span<const float> x) {
      std::vector<float>& all = outputs_[block];
      all.insert(all.end(), x.begin(), x.end());
    });
  }
  ~PhoneBlocks() { session_.watch_blocks({}); }
  PhoneBlocks(const PhoneBlocks&) = delete;
  PhoneBlocks& operator=(const PhoneBlocks&) = delete;
  const std::map<std::string, std::vector<float>>& outputs() const { return outputs_; }

 private:
  Session& session_;
  std::map<std::string, std::vector<float>> outputs_;
};

/// The trainer may have rows of padding behind those of the prompt.
double mean_relative_error(const torch::Tensor& trainer, const std::vector<float>& phone, const std::string& block) {
  const std::int64_t columns = trainer.size(1), rows = static_cast<std::int64_t>(phone.size()) / columns;
  PV_CHECK(rows > 0 && rows <= trainer.size(0) && rows * columns == static_cast<std::int64_t>(phone.size()),
           "{}: {} values on the phone, {} x {} in the trainer", block, phone.size(), trainer.size(0), columns);
  const torch::Tensor x = trainer.narrow(0, 0, rows).to(torch::kFloat64);
  const torch::Tensor y = torch::from_blob(const_cast<float*>(phone.data()), {rows, columns}, torch::kFloat32).to(torch::kFloat64);
  return ((y - x).norm(2, 1) / x.norm(2, 1).clamp_min(1e-30)).mean().item<double>();
}

std::vector<BlockError> errors_of(const TrainerBlocks& trainer, const PhoneBlocks& phone, const std::string& prefix) {
  PV_CHECK(trainer.outputs().size() == phone.outputs().size(), "the phone ran {} blocks, the trainer {}", phone.outputs().size(),
           trainer.outputs().size());
  std::vector<BlockError> errors;
  for (const torch::Tensor& output : trainer.outputs()) {
    const std::string name = prefix + std::to_string(errors.size());
    errors.push_back({name, mean_relative_error(output, phone.outputs().at(name), name)});
  }
  return errors;
}

}  // namespace

std::vector<BlockError> vision_block_errors(VisionLanguageModel& trainer, Session& phone, const EncodedChat& prompt) {
  const torch::NoGradGuard no_grad;
  const Batch batch = batch_of(prompt);
  const TrainerBlocks ours;
  const torch::Tensor expected = trainer->encode_images(batch.patches, batch.grids).to(torch::kFloat32);
  const PhoneBlocks theirs(phone);
  phone.encode_vision(prompt);
  std::vector<BlockError> errors = errors_of(ours, theirs, "v.blk.");
  errors.push_back({"projector", mean_relative_error(expected, phone.encode_image(prompt), "projector")});
  return errors;
}

std::vector<BlockError> language_block_errors(VisionLanguageModel& trainer, Session& phone, const EncodedChat& prompt) {
  const torch::NoGradGuard no_grad;
  const Batch batch = batch_of(prompt);
  torch::Tensor visual;
  std::vector<float> same;
  if (batch.patches.defined()) {
    visual = trainer->encode_images(batch.patches, batch.grids).to(torch::kFloat32).contiguous();
    same.assign(visual.data_ptr<float>(), visual.data_ptr<float>() + visual.numel());
  }
  const TrainerBlocks ours;
  const torch::Tensor expected = trainer->logits(trainer->hidden_states(batch, visual)).to(torch::kFloat32);
  const PhoneBlocks theirs(phone);
  const std::vector<float> logits = phone.forward_logits(prompt, same);
  std::vector<BlockError> errors = errors_of(ours, theirs, "blk.");
  errors.push_back({"output", mean_relative_error(expected, logits, "output")});
  return errors;
}

/// Half as much again as random weights reach, whose attention is sharper than that of trained ones (export_test.cc).
double max_block_error(const std::string& type) {
  if (type == "f32" || type == "f16") return 0.02;
  if (type == "q8_0") return 0.15;
  if (type == "q6_k") return 0.25;
  return 0.75;
}

Json differing_block(const std::vector<BlockError>& errors, double bound) {
  PV_CHECK(!errors.empty(), "no blocks were compared");
  Json blocks = Json::object();
  std::size_t steepest = 0;
  const auto rise = [&](std::size_t i) { return errors[i].error - (i == 0 ? 0.0 : errors[i - 1].error); };
  for (std::size_t i = 0; i < errors.size(); ++i) {
    blocks[errors[i].block] = std::isfinite(errors[i].error) ? Json(errors[i].error) : Json(nullptr);
    if (rise(i) > rise(steepest)) steepest = i;
  }
  const auto broken = std::find_if(errors.begin(), errors.end(), [bound](const BlockError& e) { return !(e.error <= bound); });  // NaN, too
  const BlockError& found = broken != errors.end() ? *broken : errors[steepest];
  return {{"layer", found.block}, {"relative_error", blocks[found.block]}, {"bound", bound}, {"blocks", blocks}};
}

}  // namespace pocketvlm
