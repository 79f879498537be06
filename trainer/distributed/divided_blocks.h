#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/block_runner.h"
#include "trainer/distributed/communicator.h"
#include "trainer/distributed/flat_bucket.h"
#include "trainer/distributed/recomputed_block.h"

namespace pocketvlm {

/// The transformer blocks of the model with their full names, in registration order.
std::vector<std::pair<std::string, torch::nn::Module*>> transformer_blocks(torch::nn::Module& model);
/// Whether a parameter belongs to one of them.
bool is_in_transformer_block(const std::string& parameter);

/// Transformer blocks of whose weights each rank keeps a part (full sharding). A block is gathered when it runs, forward and
/// backward, and what its backward finds is summed into the parts.
///
/// With `overlap` both go on beside computing. While a block runs, the one that followed it last time is already gathered: at
/// most one ahead, so that the weights of two blocks are whole at a time. Its gradients are summed while the next block's
/// backward runs, one block's at a time. Forecasts follow from the order of blocks alone, which is the same on all ranks;
/// what was gathered and is not run next is dropped.
class DividedBlocks {
 public:
  struct Block {
    explicit Block(int ranks) : learned(ranks), frozen(ranks) {}
    FlatBucket learned, frozen;
    torch::Tensor kept, kept_frozen;  // [part_size]; undefined when there is nothing
    BlockWeights weights;

    Exchange gathering, gathering_frozen;  // under way
    bool whole = false;
    Block* next[3] = {};  // by Pass: what came after this block in such a pass
  };

  /// Leaves the model's blocks empty, one after the other. Wherever their weights lie, in a mapped checkpoint even, this rank reads its
  /// part alone, and keeps it on `device`.
  DividedBlocks(torch::nn::Module& model, Communicator& ranks, torch::Device device, bool overlap);
  DividedBlocks(const DividedBlocks&) = delete;
  DividedBlocks& operator=(const DividedBlocks&) = delete;

  const std::vector<std::unique_ptr<Block>>& all() const { return blocks_; }
  torch::Tensor run(const torch::nn::Module& block, const torch::Tensor& x, const BlockBody& body);

  /// The gradients found since the last drop_gradients() are in `kept.grad()`, and nothing is under way: the weights may change.
  void finish();
  void drop_gradients();
  void gather_all();   // collective
  void release_all();
  /// Gives the model its blocks back, one after the other, for the parts that are kept: one block at a time is there twice, on its device or on
  /// `to`. Where not `here` they stay empty. Collective; nothing can be run after it.
  void hand_back(std::optional<torch::Device> to, bool here);

 private:
  void enter(Block& block, Pass pass);
  void leave(Block& block);
  std::vector<torch::Tensor> reduce(Block& block, const std::vector<torch::Tensor>& gradients);
  void finish_reduction();
  void start_gathering(Block& block);
  void gather(Block& block);
  void release(Block& block);

  Communicator& ranks_;
  torch::Device device_;
  bool overlap_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unordered_map<const torch::nn::Module*, Block*> by_module_;
  Block* last_ = nullptr;  // that ran, and how
  Pass last_pass_ = Pass::kForward;
  Block* ahead_ = nullptr;    // gathered, or being gathered, for the next pass
  Block* reduced_ = nullptr;  // whose gradients are under way
  Exchange reduction_;
};

}  // namespace pocketvlm
