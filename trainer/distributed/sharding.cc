#include "trainer/distributed/sharding.h"

#include <set>
#include <unordered_map>

#include "base/error.h"
#include "trainer/distributed/flat_bucket.h"
#include "trainer/distributed/recomputed_block.h"

namespace pocketvlm {
namespace {

using torch::Tensor;

/// Numbers of one exchange, about: small messages cost latency, large ones fall out of the caches.
constexpr int64_t kBucketNumbers = 1 << 20;

const Tensor& same(const Tensor& tensor) { return tensor; }
Tensor gradient_of(const Tensor& tensor) { return tensor.grad(); }

/// The transformer blocks of the model with their full names, in registration order.
std::vector<std::pair<std::string, torch::nn::Module*>> transformer_blocks(torch::nn::Module& model) {
  std::vector<std::pair<std::string, torch::nn::Module*>> blocks;
  for (const auto& parent : model.named_modules()) {
    if (parent.key() != "vision_encoder.blocks" && parent.key() != "language.layers") continue;
    for (const auto& child : parent.value()->named_children()) {
      blocks.emplace_back(parent.key() + "." + child.key(), child.value().get());
    }
  }
  return blocks;
}

}  // namespace

/// Tensors that are exchanged together, and which of the parts they are.
struct Sharding::Row {
  explicit Row(int ranks) : bucket(ranks) {}
  FlatBucket bucket;
  std::size_t first_part = 0, num_parts = 0;
};

/// A block under full sharding: this rank's part of what learns in it and of what does not.
struct Sharding::Unit {
  Unit(Communicator& communicator, int size) : ranks(communicator), learned(std::make_shared<Row>(size)), frozen(size) {}

  Communicator& ranks;
  std::shared_ptr<Row> learned;
  FlatBucket frozen;
  Tensor kept, kept_frozen;  // [part_size]; undefined when there is nothing
  BlockWeights weights;

  void gather() const {
    const torch::NoGradGuard no_grad;
    fill(learned->bucket, kept);
    fill(frozen, kept_frozen);
  }
  void release() const {
    const torch::NoGradGuard no_grad;
    for (const FlatBucket::Item& item : learned->bucket.items()) empty(item.tensor);
    for (const FlatBucket::Item& item : frozen.items()) empty(item.tensor);
  }
  static void empty(Tensor tensor) { tensor.set_data(torch::empty({0}, tensor.options().requires_grad(false))); }

 private:
  void fill(const FlatBucket& bucket, const Tensor& part) const {
    if (bucket.empty()) return;
    const std::vector<Tensor> views = bucket.views(ranks.all_gather(part.detach()));
    for (std::size_t i = 0; i < views.size(); ++i) Tensor(bucket.items()[i].tensor).set_data(views[i]);
  }
};

Sharding::Sharding(const DistributedConfig& config,
                   bool recompute_blocks,
                   torch::nn::Module& model,
                   const NamedWeights& weights,
                   Communicator& ranks)
    : ranks_(ranks), mode_(config.sharding) {
  const torch::NoGradGuard no_grad;
  for (const auto& [name, weight] : weights) tensors_.emplace_back(name, weight.sizes().vec());
  if (mode_ == "full") {
    add_units(model);
  } else if (recompute_blocks) {
    add_recomputed_blocks(model);
  }
  add_buckets(weights);
}

Sharding::~Sharding() = default;

void Sharding::add_units(torch::nn::Module& model) {
  const auto units = std::make_shared<std::unordered_map<const torch::nn::Module*, Unit*>>();
  for (const auto& [name, block] : transformer_blocks(model)) {
    const auto unit = std::make_shared<Unit>(ranks_, ranks_.size());
    for (const auto& item : block->named_parameters()) {
      const std::string full_name = name + "." + item.key();
      (item.value().requires_grad() ? unit->learned->bucket : unit->frozen).add(full_name, item.value());
      if (item.value().requires_grad()) unit->weights.parameters.push_back(item.value());
    }
    const auto keep = [&](const FlatBucket& bucket) {
      if (bucket.empty()) return Tensor();
      return bucket.flatten(same).narrow(0, ranks_.rank() * bucket.part_size(), bucket.part_size()).clone();
    };
    unit->kept = keep(unit->learned->bucket);
    unit->kept_frozen = keep(unit->frozen);
    if (unit->kept.defined()) {
      unit->kept.requires_grad_(true);
      unit->weights.kept = {unit->kept};
      Row& row = *unit->learned;
      row.first_part = parts_.size();
      for (TensorSlice& slice : row.bucket.slices(unit->kept, ranks_.rank())) parts_.push_back(std::move(slice));
      row.num_parts = parts_.size() - row.first_part;
      rows_.push_back(unit->learned);
    }
    Unit* const raw = unit.get();
    unit->weights.gather = [raw] { raw->gather(); };
    unit->weights.release = [raw] { raw->release(); };
    unit->weights.reduce = [raw](const std::vector<Tensor>& gradients) -> std::vector<Tensor> {
      if (raw->weights.kept.empty()) return {};
      std::size_t next = 0;  // flatten walks the tensors in the order of `parameters`
      const Tensor flat = raw->learned->bucket.flatten([&](const Tensor&) { return gradients[next++]; });
      return {raw->ranks.reduce_scatter(flat)};
    };
    unit->release();
    (*units)[block] = raw;
    units_.push_back(unit);
  }
  runner_ = [units](const torch::nn::Module& block, const Tensor& x, const BlockBody& body) {
    return recomputed_block(units->at(&block)->weights, x, body);
  };
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

void Sharding::add_buckets(const NamedWeights& weights) {
  std::set<std::string> in_units;
  for (const auto& row : rows_) {
    for (const FlatBucket::Item& item : row->bucket.items()) in_units.insert(item.name);
  }
  for (const auto& [name, weight] : weights) {
    if (in_units.count(name) != 0) continue;
    TORCH_INTERNAL_ASSERT(weight.is_contiguous());
    if (buckets_.empty() || buckets_.back()->bucket.numbers() + weight.numel() > kBucketNumbers) {
      buckets_.push_back(std::make_shared<Row>(ranks_.size()));
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

void Sharding::reduce_gradients() {
  const torch::NoGradGuard no_grad;
  if (mode_ == "replicated" && ranks_.size() == 1) return;
  const auto set_gradients = [&](const Row& row, const Tensor& part) {
    const std::vector<TensorSlice> gradients = row.bucket.slices(part, ranks_.rank());
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      parts_[row.first_part + i].values.mutable_grad() = gradients[i].values;
    }
  };
  for (const auto& unit : units_) {
    if (unit->kept.defined() && unit->kept.grad().defined()) set_gradients(*unit->learned, unit->kept.grad());
  }
  for (const auto& row : buckets_) {
    const Tensor part = ranks_.reduce_scatter(row->bucket.flatten(gradient_of));
    for (const FlatBucket::Item& item : row->bucket.items()) item.tensor.mutable_grad().reset();
    if (mode_ != "replicated") {
      set_gradients(*row, part);
      continue;
    }
    const std::vector<Tensor> views = row->bucket.views(ranks_.all_gather(part));
    for (std::size_t i = 0; i < views.size(); ++i) row->bucket.items()[i].tensor.mutable_grad() = views[i];
  }
}

void Sharding::gather_row(const Row& row,
                          const std::vector<Tensor>& values,
                          const std::function<void(std::size_t, const Tensor&)>& use) {
  Tensor part = torch::zeros({row.bucket.part_size()}, row.bucket.items().front().tensor.options().requires_grad(false));
  const std::vector<TensorSlice> slices = row.bucket.slices(part, ranks_.rank());
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const Tensor& from = values[row.first_part + i];
    if (from.defined()) Tensor(slices[i].values).copy_(from);
  }
  const std::vector<Tensor> views = row.bucket.views(ranks_.all_gather(part));
  for (std::size_t i = 0; i < views.size(); ++i) use(i, views[i]);
}

void Sharding::spread_weights() {
  const torch::NoGradGuard no_grad;
  for (const auto& unit : units_) {
    if (unit->kept.defined()) unit->kept.mutable_grad().reset();
  }
  if (mode_ == "replicated" || ranks_.size() == 1) return;
  std::vector<Tensor> values;
  for (const TensorSlice& part : parts_) values.push_back(part.values);
  for (const auto& row : buckets_) {
    gather_row(*row, values, [&](std::size_t i, const Tensor& whole) {
      Tensor(row->bucket.items()[i].tensor).copy_(whole);
    });
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
  for (const auto& unit : units_) unit->gather();
  use();
  for (const auto& unit : units_) unit->release();
}

void Sharding::restore_model() {
  const torch::NoGradGuard no_grad;
  for (const auto& unit : units_) {
    unit->gather();
    // Tensors of their own: views would keep the exchanged row alive, and share one storage.
    for (const FlatBucket* bucket : {&unit->learned->bucket, &unit->frozen}) {
      for (const FlatBucket::Item& item : bucket->items()) Tensor(item.tensor).set_data(item.tensor.detach().clone());
    }
  }
  units_.clear();
  runner_ = {};
}

}  // namespace pocketvlm
