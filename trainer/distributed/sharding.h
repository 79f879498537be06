#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/block_runner.h"
#include "trainer/distributed/communicator.h"
#include "trainer/distributed/distributed_config.h"
#include "trainer/optimizer.h"
#include "trainer/tensor_slice.h"

namespace pocketvlm {

class DividedBlocks;

/// How weights, gradients and moments are spread over the ranks (design decision 6), around a step that reads
///   forward and backward under `runner()`, reduce_gradients(), optimizer step on `parts()`, spread_weights().
///
///   replicated   every rank keeps and updates everything
///   optimizer    every rank keeps all weights, updates its part of them and sends it to the others
///   full         of the weights inside transformer blocks every rank keeps its part; a block is gathered when it runs,
///                forward and backward, and its gradients are summed into the parts (DividedBlocks). What is not inside a
///                block (embeddings, projector, norms) is treated as under `optimizer`.
///
/// With `overlap`, ranks talk beside computing. What is not in a divided block is summed in buckets, in the inverse order of the
/// list of weights: under `replicated` and `optimizer` a bucket starts during the last backward of a step, as soon as its gradients
/// and those of the buckets before it are whole. A bucket that lacks one on this rank waits for reduce_gradients(). So what
/// ranks start is the same everywhere, in one order, only not at one time. No bit depends on it.
///
/// Gradients are summed in float32, in the order of the ranks, also for tensors that a rank has no gradient for: what a
/// rank's batch holds changes nothing about who talks when. Under `full` the same must hold for which blocks are run.
class Sharding {
 public:
  /// Numbers of one exchange, about: small messages cost latency, large ones fall out of the caches.
  static constexpr int64_t kBucketNumbers = 1 << 20;

  /// model: whose blocks are run, moved to `device` (under `full` part by part: no block is whole there); weights: what learns of it and
  /// beside it, whole on every rank and equal on all of them.
  Sharding(const DistributedConfig& config,
           bool recompute_blocks,
           torch::nn::Module& model,
           torch::Device device,
           const std::vector<std::pair<std::string, torch::Tensor>>& weights,
           Communicator& ranks,
           int64_t bucket_numbers = kBucketNumbers);
  ~Sharding();
  Sharding(const Sharding&) = delete;
  Sharding& operator=(const Sharding&) = delete;

  /// What this rank updates: whole tensors, or runs of their numbers. Gradients are on `values` after reduce_gradients().
  const std::vector<TensorSlice>& parts() const { return parts_; }
  /// Those of parts() that this rank writes to a checkpoint: every number is written by exactly one rank.
  bool writes(std::size_t part) const;
  /// Empty when blocks are run as they are.
  const BlockRunner& runner() const { return runner_; }
  /// Whether all ranks must run the same blocks.
  bool gathers_blocks() const;

  /// Says that one more backward comes before reduce_gradients(). Between this and that, ranks may exchange nothing else, and under
  /// `replicated` and `optimizer` a rank may skip the backward.
  void expect_last_backward();
  void reduce_gradients();
  void spread_weights();
  /// What the optimizer needs from the other ranks.
  PartsExchange exchange();
  /// Puts whole tensors together from what every rank holds of them: values[i] belongs to parts()[i]. Every rank's `use` gets each
  /// tensor that learns, for as long as the call lasts. Collective.
  void put_together(const std::vector<torch::Tensor>& values,
                    const std::function<void(const std::string& name, const torch::Tensor& whole)>& use);
  /// Calls `use` while the model's parameters hold all their numbers. Collective.
  void with_whole_model(const std::function<void()>& use);
  /// Ends the sharding: the model's parameters hold all their numbers again, those of divided blocks on `to` if it is given. With
  /// `first_alone` divided blocks stay empty on ranks other than 0. Returns whether the model is whole here. Collective.
  bool restore_model(std::optional<torch::Device> to = std::nullopt, bool first_alone = false);

 private:
  struct Row;
  using NamedWeights = std::vector<std::pair<std::string, torch::Tensor>>;
  void add_divided_blocks(torch::nn::Module& model, torch::Device device);
  void add_recomputed_blocks(torch::nn::Module& model);
  void add_buckets(const NamedWeights& weights, int64_t bucket_numbers);
  void add_hooks();
  void note_gradient(Row& row);
  void start_sum(Row& row);
  void finish_sum(Row& row);
  void set_gradients(const Row& row, const torch::Tensor& part);
  Exchange start_gathering(const Row& row, const std::vector<torch::Tensor>& values);
  void gather_row(const Row& row,
                  const std::vector<torch::Tensor>& values,
                  const std::function<void(std::size_t, const torch::Tensor&)>& use);

  Communicator& ranks_;
  std::string mode_;
  bool overlap_;
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors_;  // name and shape of all that learn
  std::unique_ptr<DividedBlocks> blocks_;                              // under full sharding
  std::vector<std::pair<std::shared_ptr<Row>, torch::Tensor>> block_rows_;  // what learns in them, and the part that is kept
  std::vector<std::shared_ptr<Row>> buckets_;  // what is not in a divided block and learns
  std::vector<std::shared_ptr<Row>> rows_;     // all that parts_ are pieces of, in their order
  std::vector<TensorSlice> parts_;
  BlockRunner runner_;
  std::vector<torch::Tensor> hooked_;
  bool last_backward_ = false;    // expected, or under way
  std::size_t not_started_ = 0;  // of buckets_, from the front
};

}  // namespace pocketvlm
