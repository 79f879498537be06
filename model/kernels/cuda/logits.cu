#include "model/kernels/cuda/lanes.cuh"

namespace pocketvlm::kernels::device {
namespace {

/// As small as a largest value can be, yet finite: the difference of two infinities would be no number.
constexpr float kLowest = -3.4e38F;

/// e^(value - top) summed over what was seen, beside the largest value: softmax in one pass.
struct ExpSum {
  float top = kLowest;
  float total = 0.0F;

  __device__ __forceinline__ void add(float value) {
    if (value > top) {
      total = total * expf(top - value) + 1.0F;
      top = value;
    } else {
      total += expf(value - top);
    }
  }
  __device__ __forceinline__ void join(float other_top, float other_total) {
    const float higher = fmaxf(top, other_top);
    total = total * expf(top - higher) + other_total * expf(other_top - higher);
    top = higher;
  }
};

__device__ __forceinline__ ExpSum warp_join(ExpSum sum) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float top = __shfl_xor_sync(kWholeWarp, sum.top, distance);
    const float total = __shfl_xor_sync(kWholeWarp, sum.total, distance);
    sum.join(top, total);
  }
  return sum;
}

/// Of all threads of the block, which all must call it; the first thread's result counts.
__device__ __forceinline__ ExpSum block_join(ExpSum sum) {
  __shared__ float tops[kWarp], totals[kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  sum = warp_join(sum);
  __syncthreads();  // whoever still reads those of the row before
  if (lane == 0) {
    tops[warp] = sum.top;
    totals[warp] = sum.total;
  }
  __syncthreads();
  ExpSum part;
  if (lane < static_cast<int>(blockDim.x) / kWarp) {
    part.top = tops[lane];
    part.total = totals[lane];
  }
  return warp_join(part);
}

/// A block a row: its columns join the row's running sum, and the target's logit is picked where it lies among them.
template <typename T, int V>
__global__ void log_sum_rows(const LogitBlock a, const int64_t rows) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* logits = static_cast<const T*>(a.logits) + row * a.stride;
    ExpSum sum;
    for (int64_t i = int64_t{threadIdx.x} * V; i < a.count; i += int64_t{blockDim.x} * V) {
      const Pack<V> values = load<V>(logits + i);
      for (int j = 0; j < V; ++j) sum.add(values.at[j]);
    }
    sum = block_join(sum);
    if (threadIdx.x != 0) continue;
    const float here = sum.top + logf(sum.total);
    const float before = a.log_sum[row];  // minus infinity before the first block
    const float high = here > before ? here : before, low = here > before ? before : here;
    a.log_sum[row] = high + log1pf(expf(low - high));
    const int64_t column = a.targets[row] - a.first_id;
    if (column >= 0 && column < a.count) a.picked[row] = load<1>(logits + column).at[0];
  }
}

/// d log p[target] / d logit = [target] - softmax, times the row's gradient, in place.
template <typename T, int V>
__global__ void logit_gradient_rows(const LogitBlock a, const int64_t rows) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    T* logits = static_cast<T*>(a.logits) + row * a.stride;
    const float log_sum = a.log_sum[row], grad = a.grad[row];
    const int64_t column = a.targets[row] - a.first_id;
    for (int64_t i = int64_t{threadIdx.x} * V; i < a.count; i += int64_t{blockDim.x} * V) {
      Pack<V> values = load<V>(logits + i);
      for (int j = 0; j < V; ++j) {
        const float probability = expf(values.at[j] - log_sum);
        values.at[j] = grad * (i + j == column ? 1.0F - probability : -probability);
      }
      store(logits + i, values);
    }
  }
}

constexpr unsigned int kMostThreads = 512;

bool in_fours(const LogitBlock& args) {
  return args.count % 4 == 0 && args.stride % 4 == 0 && takes_fours(args.logits, args.type);
}

}  // namespace

void log_sum_block(const LogitBlock& args, int64_t rows, Stream stream) {
  if (rows == 0) return;
  by_type(args.type, [&](auto t) {
    by_width(in_fours(args), [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      log_sum_rows<typename decltype(t)::Element, V>
          <<<blocks_for(rows), threads_for(args.count / V, kMostThreads), 0, stream>>>(args, rows);
    });
  });
}

void logit_gradient_block(const LogitBlock& args, int64_t rows, Stream stream) {
  if (rows == 0) return;
  by_type(args.type, [&](auto t) {
    by_width(in_fours(args), [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      logit_gradient_rows<typename decltype(t)::Element, V>
          <<<blocks_for(rows), threads_for(args.count / V, kMostThreads), 0, stream>>>(args, rows);
    });
  });
}

}  // namespace pocketvlm::kernels::device
