#include "trainer/distributed/divided_blocks.h"

#include <malloc.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "model/checkpoint.h"

namespace pocketvlm {
namespace {

using torch::Tensor;

constexpr const char* kParents[] = {"vision_encoder.blocks", "language.layers"};

/// Waits for `gathering` and puts it behind the tensors of `bucket`.
void fill(const FlatBucket& bucket, Exchange& gathering) {
  if (bucket.empty()) return;
  const std::vector<Tensor> views = bucket.views(gathering.wait());
  for (std::size_t i = 0; i < views.size(); ++i) Tensor(bucket.items()[i].tensor).set_data(views[i]);
}

/// Tensors of their own for the views of an exchanged row, which would keep it alive and share one storage.
void copy_whole(const FlatBucket& bucket, std::optional<torch::Device> to) {
  for (const FlatBucket::Item& item : bucket.items()) {
    const Tensor whole = item.tensor.detach();
    Tensor(item.tensor).set_data(to ? whole.to(*to, whole.scalar_type(), /*non_blocking=*/false, /*copy=*/true) : whole.clone());
  }
}

void empty(const FlatBucket& bucket, torch::Device device) {
  for (const FlatBucket::Item& item : bucket.items()) {
    Tensor(item.tensor).set_data(torch::empty({0}, torch::TensorOptions(device).dtype(torch::kFloat32)));
  }
}

}  // namespace

std::vector<std::pair<std::string, torch::nn::Module*>> transformer_blocks(torch::nn::Module& model) {
  std::vector<std::pair<std::string, torch::nn::Module*>> blocks;
  for (const auto& parent : model.named_modules()) {
    if (std::find(std::begin(kParents), std::end(kParents), parent.key()) == std::end(kParents)) continue;
    for (const auto& child : parent.value()->named_children()) {
      blocks.emplace_back(parent.key() + "." + child.key(), child.value().get());
    }
  }
  return blocks;
}

bool is_in_transformer_block(const std::string& parameter) {
  return std::any_of(std::begin(kParents), std::end(kParents), [&](const char* parent) { return parameter.starts_with(parent + std::string(".")); });
}

DividedBlocks::DividedBlocks(torch::nn::Module& model, Communicator& ranks, torch::Device device, bool overlap)
    : ranks_(ranks), device_(device), overlap_(overlap) {
  const torch::NoGradGuard no_grad;
  for (const auto& [name, module] : transformer_blocks(model)) {
    blocks_.push_back(std::make_unique<Block>(ranks.size()));
    Block& block = *blocks_.back();
    by_module_[module] = &block;
    for (const auto& item : module->named_parameters()) {
      const std::string full_name = name + "." + item.key();
      (item.value().requires_grad() ? block.learned : block.frozen).add(full_name, item.value());
      if (item.value().requires_grad()) block.weights.parameters.push_back(item.value());
    }
    const auto keep = [&](const FlatBucket& bucket) {
      return bucket.empty() ? Tensor() : bucket.part_of_tensors(ranks_.rank()).to(device);
    };
    block.kept = keep(block.learned);
    block.kept_frozen = keep(block.frozen);
    if (block.kept.defined()) {
      block.kept.requires_grad_(true);
      block.weights.kept = {block.kept};
    }
    block.weights.enter = [this, &block](Pass pass) { enter(block, pass); };
    block.weights.leave = [this, &block] { leave(block); };
    block.weights.reduce = [this, &block](const std::vector<Tensor>& gradients) { return reduce(block, gradients); };
    release_mapped_weights(*module);
    release(block);
  }
}

Tensor DividedBlocks::run(const torch::nn::Module& block, const Tensor& x, const BlockBody& body) {
  return recomputed_block(by_module_.at(&block)->weights, x, body);
}

void DividedBlocks::start_gathering(Block& block) {
  if (block.whole || block.gathering.started() || block.gathering_frozen.started()) return;
  if (!block.learned.empty()) block.gathering = ranks_.start_all_gather(block.kept.detach());
  if (!block.frozen.empty()) block.gathering_frozen = ranks_.start_all_gather(block.kept_frozen);
}

void DividedBlocks::gather(Block& block) {
  if (block.whole) return;
  const torch::NoGradGuard no_grad;
  start_gathering(block);
  fill(block.learned, block.gathering);
  fill(block.frozen, block.gathering_frozen);
  block.whole = true;
}

void DividedBlocks::release(Block& block) {
  const torch::NoGradGuard no_grad;
  for (Exchange* gathering : {&block.gathering, &block.gathering_frozen}) {
    if (gathering->started()) gathering->wait();
  }
  empty(block.learned, device_);
  empty(block.frozen, device_);
  block.whole = false;
}

void DividedBlocks::enter(Block& block, Pass pass) {
  // After a backward the weights may change, so nothing is forecast beyond it.
  const bool forecast = overlap_ && last_ != nullptr && (last_pass_ != Pass::kBackward || pass == Pass::kBackward);
  if (forecast) last_->next[static_cast<int>(last_pass_)] = &block;
  last_ = &block;
  last_pass_ = pass;
  if (ahead_ != nullptr && ahead_ != &block) release(*ahead_);
  ahead_ = nullptr;
  gather(block);
  Block* const next = block.next[static_cast<int>(pass)];
  if (next == nullptr) return;
  ahead_ = next;
  start_gathering(*next);
}

void DividedBlocks::leave(Block& block) {
  if (ahead_ != &block) release(block);  // the last block of a forward is the first of the backward
}

std::vector<Tensor> DividedBlocks::reduce(Block& block, const std::vector<Tensor>& gradients) {
  if (block.weights.kept.empty()) return {};
  std::size_t next = 0;  // flatten walks the tensors in the order of `parameters`
  const Tensor flat = block.learned.flatten([&](const Tensor&) { return gradients[next++]; });
  finish_reduction();
  reduction_ = ranks_.start_reduce_scatter(flat);
  reduced_ = &block;
  if (!overlap_) finish_reduction();
  return {Tensor()};  // finish_reduction adds it up
}

/// As autograd adds up what backward functions return.
void DividedBlocks::finish_reduction() {
  if (reduced_ == nullptr) return;
  const torch::NoGradGuard no_grad;
  const Tensor part = reduction_.wait();
  Tensor& gradient = std::exchange(reduced_, nullptr)->kept.mutable_grad();
  if (gradient.defined()) {
    gradient.add_(part);
  } else {
    gradient = part;
  }
}

void DividedBlocks::finish() {
  finish_reduction();
  if (ahead_ != nullptr) release(*ahead_);
  ahead_ = last_ = nullptr;
}

void DividedBlocks::drop_gradients() {
  finish();
  for (const auto& block : blocks_) {
    if (block->kept.defined()) block->kept.mutable_grad().reset();
  }
}

void DividedBlocks::gather_all() {
  finish();
  for (const auto& block : blocks_) gather(*block);
}

void DividedBlocks::hand_back(std::optional<torch::Device> to, bool here) {
  const torch::NoGradGuard no_grad;
  finish();
  for (const auto& block : blocks_) {
    gather(*block);
    block->kept.reset();
    block->kept_frozen.reset();
    block->weights.kept.clear();
    if (here) {
      copy_whole(block->learned, to);
      copy_whole(block->frozen, to);
    } else {
      release(*block);
    }
    ::malloc_trim(0);  // rows that were exchanged leave holes
  }
}

void DividedBlocks::release_all() {
  for (const auto& block : blocks_) release(*block);
}

}  // namespace pocketvlm
