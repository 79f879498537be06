#include "trainer/distributed/sharding.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "trainer/distributed/divided_blocks.h"
#include "trainer/distributed/flat_bucket.h"
#include "trainer/distributed/recomputed_block.h"

namespace pocketvlm {
namespace {

using torch::Tensor;

Tensor gradient_of(const Tensor& tensor) { return tensor.grad(); }

/// Calls `told` when the backward under way has added all it finds to a tensor's gradient.
class AfterGradient : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit AfterGradient(std::function<void()> told) : told_(std::move(told)) {}
  void operator()(const torch::autograd::Variable& /*tensor*/) override { told_(); }

 private:
  std::function<void()> told_;
};

}  // namespace

/// Tensors that are exchanged together, and which of the parts they are.
struct Sharding::Row {
  explicit Row(FlatBucket tensors) : bucket(std::move(tensors)) {}
  FlatBucket bucket;
  std::size_t first_part = 0, num_parts = 0;
  std::size_t missing = 0;  // gradients that the last backward has not found yet
  Exchange sum;             // of gradients, under way
};

Sharding::Sharding(const DistributedConfig& config,
                   bool recompute_blocks,
                   torch::nn::Module& model,
                   torch::Device device,
                   const NamedWeights& weights,
                   Communicator& ranks,
                   int64_t bucket_numbers)
    : ranks_(ranks), mode_(config.sharding), overlap_(config.overlap) {
  const torch::NoGradGuard no_grad;
  for (const auto& [name, weight] : weights) tensors_.emplace_back(name, weight.sizes().vec());
  if (mode_ == "full") {
    add_divided_blocks(model, device);
  } else if (recompute_blocks) {
    add_recomputed_blocks(model);
  }
  model.to(device);  // what is not divided
  add_buckets(weights, bucket_numbers);
  // Under `full` blocks talk during backward, and which gradients outside of them a rank finds when is its own affair.
  if (overlap_ && mode_ != "full" && ranks_.size() > 1) add_hooks();
}

Sharding::~Sharding() {
  for (const Tensor& tensor : hooked_) torch::autograd::impl::set_post_acc_grad_hooks(tensor, nullptr);
}

bool Sharding::gathers_blocks() const { return blocks_ != nullptr && ranks_.size() > 1; }

void Sharding::add_divided_blocks(torch::nn::Module& model, torch::Device device) {
  blocks_ = std::make_unique<DividedBlocks>(model, ranks_, device, overlap_);
  for (const auto& block : blocks_->all()) {
    if (!block->kept.defined()) continue;
    const auto row = std::make_shared<Row>(block->learned);
    row->first_part = parts_.size();
    for (TensorSlice& slice : row->bucket.slices(block->kept, ranks_.rank())) parts_.push_back(std::move(slice));
    row->num_parts = parts_.size() - row->first_part;
    rows_.push_back(row);
    block_rows_.emplace_back(row, block->kept);
  }
  runner_ = [this](const torch::nn::Module& block, const Tensor& x, const BlockBody& body) { return blocks_->run(block, x, body); };
}

void Sharding::add_recomputed_blocks(torch::nn::Module& model) {
  const auto blocks = std::make_shared<std::unordered_map<const torch::nn::Module*, BlockWeights>>();
  for (const auto& [name, block] : transformer_blocks(model)) {
    BlockWeights& weights = (*blocks)[block];
    for (const Tensor& parameter : block->parameters()) {
      if (parameter.requires_grad()) weights.parameters.push_back(parameter);
    }
    weights.kept = weights.parameters;
  }
  runner_ = [blocks](const torch::nn::Module& block, const Tensor& x, const BlockBody& body) {
    return recomputed_block(blocks->at(&block), x, body);
  };
}

void Sharding::add_buckets(const NamedWeights& weights, int64_t bucket_numbers) {
  std::set<std::string> in_units;
  for (const auto& row : rows_) {
    for (const FlatBucket::Item& item : row->bucket.items()) in_units.insert(item.name);
  }
  for (const auto& [name, weight] : weights) {
    if (in_units.count(name) != 0) continue;
    TORCH_INTERNAL_ASSERT(weight.is_contiguous());
    if (buckets_.empty() || buckets_.back()->bucket.numbers() + weight.numel() > bucket_numbers) {
      buckets_.push_back(std::make_shared<Row>(FlatBucket(ranks_.size())));
    }
    buckets_.back()->bucket.add(name, weight);
  }
  for (const auto& row : buckets_) {
    row->first_part = parts_.size();
    if (mode_ == "replicated") {
      for (const FlatBucket::Item& item : row->bucket.items()) parts_.push_back(whole_tensor(item.name, item.tensor));
    } else {
      for (TensorSlice& slice : row->bucket.slices_of_tensors(ranks_.rank())) parts_.push_back(std::move(slice));
    }
    row->num_parts = parts_.size() - row->first_part;
    rows_.push_back(row);
  }
}

bool Sharding::writes(std::size_t part) const {
  return mode_ != "replicated" || static_cast<int>(part % static_cast<std::size_t>(ranks_.size())) == ranks_.rank();
}

void Sharding::add_hooks() {
  for (const auto& row : buckets_) {
    for (const FlatBucket::Item& item : row->bucket.items()) {
      auto hook = std::make_unique<AfterGradient>([this, row = row.get()] { note_gradient(*row); });
      torch::autograd::impl::set_post_acc_grad_hooks(item.tensor, std::move(hook));
      hooked_.push_back(item.tensor);
    }
  }
}

void Sharding::expect_last_backward() {
  if (hooked_.empty()) return;
  last_backward_ = true;
  not_started_ = buckets_.size();
  for (const auto& row : buckets_) row->missing = row->bucket.items().size();
}

void Sharding::note_gradient(Row& row) {
  if (!last_backward_) return;
  TORCH_INTERNAL_ASSERT(row.missing > 0, "a second backward after expect_last_backward()");
  --row.missing;
  // From the last bucket to the first, whatever comes first here: the order must be that of the other ranks.
  while (not_started_ > 0 && buckets_[not_started_ - 1]->missing == 0) start_sum(*buckets_[--not_started_]);
}

void Sharding::start_sum(Row& row) {
  const Tensor flat = row.bucket.flatten(gradient_of);
  for (const FlatBucket::Item& item : row.bucket.items()) item.tensor.mutable_grad().reset();
  row.sum = mode_ == "replicated" ? ranks_.start_all_reduce(flat) : ranks_.start_reduce_scatter(flat);
}

void Sharding::finish_sum(Row& row) {
  const Tensor sum = row.sum.wait();
  if (mode_ != "replicated") return set_gradients(row, sum);
  const std::vector<Tensor> views = row.bucket.views(sum);
  for (std::size_t i = 0; i < views.size(); ++i) row.bucket.items()[i].tensor.mutable_grad() = views[i];
}

void Sharding::set_gradients(const Row& row, const Tensor& part) {
  const std::vector<TensorSlice> gradients = row.bucket.slices(part, ranks_.rank());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    parts_[row.first_part + i].values.mutable_grad() = gradients[i].values;
  }
}

void Sharding::reduce_gradients() {
  const torch::NoGradGuard no_grad;
  if (mode_ == "replicated" && ranks_.size() == 1) return;
  last_backward_ = false;
  if (blocks_) blocks_->finish();
  for (const auto& [row, kept] : block_rows_) {
    if (kept.grad().defined()) set_gradients(*row, kept.grad());
  }
  for (std::size_t i = buckets_.size(); i > 0; --i) {
    Row& row = *buckets_[i - 1];
    if (!row.sum.started()) start_sum(row);
    if (!overlap_) finish_sum(row);
  }
  if (!overlap_) return;
  for (std::size_t i = buckets_.size(); i > 0; --i) finish_sum(*buckets_[i - 1]);
}

Exchange Sharding::start_gathering(const Row& row, const std::vector<Tensor>& values) {
  Tensor part = torch::zeros({row.bucket.part_size()}, row.bucket.items().front().tensor.options().requires_grad(false));
  const std::vector<TensorSlice> slices = row.bucket.slices(part, ranks_.rank());
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Tensor& from = values[row.first_part + i];
    if (from.defined()) Tensor(slices[i].values).copy_(from);
  }
  return ranks_.start_all_gather(part);
}

void Sharding::gather_row(const Row& row,
                          const std::vector<Tensor>& values,
                          const std::function<void(std::size_t, const Tensor&)>& use) {
  const std::vector<Tensor> views = row.bucket.views(start_gathering(row, values).wait());
  for (std::size_t i = 0; i < views.size(); ++i) use(i, views[i]);
}

void Sharding::spread_weights() {
  const torch::NoGradGuard no_grad;
  if (blocks_) blocks_->drop_gradients();
  if (mode_ == "replicated" || ranks_.size() == 1) return;
  std::vector<Tensor> values;
  for (const TensorSlice& part : parts_) values.push_back(part.values);
  const std::size_t ahead = overlap_ ? 1 : 0;  // buckets that travel while one is copied
  std::vector<Exchange> gathering;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    while (gathering.size() < std::min(i + 1 + ahead, buckets_.size())) gathering.push_back(start_gathering(*buckets_[gathering.size()], values));
    const FlatBucket& bucket = buckets_[i]->bucket;
    const std::vector<Tensor> views = bucket.views(gathering[i].wait());
    for (std::size_t k = 0; k < views.size(); ++k) Tensor(bucket.items()[k].tensor).copy_(views[k]);
  }
}

PartsExchange Sharding::exchange() {
  if (mode_ == "replicated") return {};
  PartsExchange exchange;
  exchange.tensors = tensors_;
  exchange.sum = [this](double value) { return ranks_.sum({value}).front(); };
  exchange.gather = [this](const std::vector<Tensor>& values,
                           const std::function<bool(const std::string&)>& wanted,
                           const std::function<void(std::size_t, const Tensor&)>& use) {
    for (const auto& row : rows_) {
      bool any = false;
      for (const FlatBucket::Item& item : row->bucket.items()) any = any || wanted(item.name);
      if (!any) continue;
      // The parts of a row are its items that reach into this rank's stretch, in their order.
      std::size_t part = row->first_part;
      const std::size_t end = row->first_part + row->num_parts;
      gather_row(*row, values, [&](std::size_t i, const Tensor& whole) {
        const std::string& name = row->bucket.items()[i].name;
        if (part >= end || parts_[part].name != name) return;
        if (wanted(name)) use(part, whole);
        ++part;
      });
    }
  };
  return exchange;
}

void Sharding::put_together(const std::vector<Tensor>& values,
                            const std::function<void(const std::string&, const Tensor&)>& use) {
  const torch::NoGradGuard no_grad;
  TORCH_INTERNAL_ASSERT(values.size() == parts_.size());
  for (const auto& row : rows_) {
    if (mode_ == "replicated") {
      for (std::size_t i = 0; i < row->num_parts; ++i) use(row->bucket.items()[i].name, values[row->first_part + i]);
    } else {
      gather_row(*row, values, [&](std::size_t i, const Tensor& whole) { use(row->bucket.items()[i].name, whole); });
    }
  }
}

void Sharding::with_whole_model(const std::function<void()>& use) {
  if (blocks_) blocks_->gather_all();
  use();
  if (blocks_) blocks_->release_all();
}

bool Sharding::restore_model(std::optional<torch::Device> to, bool first_alone) {
  runner_ = {};
  if (!blocks_) return true;
  const bool here = ranks_.is_first() || !first_alone;
  parts_.clear();
  rows_.clear();
  block_rows_.clear();
  blocks_->hand_back(to, here);
  blocks_.reset();
  return here;
}

}  // namespace pocketvlm
