#include <ATen/ops/scaled_dot_product_attention.h>

#include "model/layers.h"

namespace pocketvlm {
namespace {

/// Neighbouring segments of one length.
struct Run {
  int64_t count;
  int64_t length;
};

std::vector<Run> find_runs(const std::vector<int64_t>& lengths) {
  std::vector<Run> runs;
  for (const int64_t length : lengths) {
    if (!runs.empty() && runs.back().length == length) {
      ++runs.back().count;
    } else {
      runs.push_back({1, length});
    }
  }
  return runs;
}

}  // namespace

torch::Tensor segment_attention(const torch::Tensor& q,
                                const torch::Tensor& k,
                                const torch::Tensor& v,
                                const std::vector<int64_t>& lengths,
                                bool causal) {
  const std::vector<Run> runs = find_runs(lengths);
  std::vector<int64_t> sizes;
  for (const Run& run : runs) sizes.push_back(run.count * run.length);
  const bool grouped = q.size(1) != k.size(1);
  const auto qs = q.split_with_sizes(sizes);
  const auto ks = k.split_with_sizes(sizes);
  const auto vs = v.split_with_sizes(sizes);
  std::vector<torch::Tensor> outputs;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto batched = [&](const torch::Tensor& x) {
      return x.unflatten(0, {runs[i].count, runs[i].length}).transpose(1, 2);
    };
    const torch::Tensor out = at::scaled_dot_product_attention(
        batched(qs[i]), batched(ks[i]), batched(vs[i]), {}, 0.0, causal, std::nullopt, grouped);
    outputs.push_back(out.transpose(1, 2).reshape({sizes[i], q.size(1) * q.size(2)}));
  }
  return outputs.size() == 1 ? outputs.front() : torch::cat(outputs);
}

}  // namespace pocketvlm
