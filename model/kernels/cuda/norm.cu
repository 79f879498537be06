#include "model/kernels/cuda/lanes.cuh"

namespace pocketvlm::kernels::device {
namespace {

/// A block a row. What a thread writes of the sum it reads again itself.
template <typename X, typename T, int V>
__global__ void norm_forward_rows(const NormForward a, const int64_t rows) {
  const int64_t first = int64_t{threadIdx.x} * V, stride = int64_t{blockDim.x} * V;
  const auto count = static_cast<float>(a.size);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const X* x = static_cast<const X*>(a.x) + row * a.size;
    const T* branch = a.branch != nullptr ? static_cast<const T*>(a.branch) + row * a.size : nullptr;
    float* added = branch != nullptr ? a.sum + row * a.size : nullptr;
    T* y = static_cast<T*>(a.y) + row * a.size;
    float total = 0.0F, squares = 0.0F;
    for (int64_t i = first; i < a.size; i += stride) {
      Pack<V> value = load<V>(x + i);
      if (branch != nullptr) {
        const Pack<V> more = load<V>(branch + i);
        for (int j = 0; j < V; ++j) value.at[j] += more.at[j] * a.scale;
        store(added + i, value);
      }
      for (int j = 0; j < V; ++j) {
        total += value.at[j];
        squares += value.at[j] * value.at[j];
      }
    }
    const auto value_at = [&](int64_t i) { return added != nullptr ? load<V>(added + i) : load<V>(x + i); };
    float mean = 0.0F;
    if (a.bias == nullptr) {
      squares = block_sum(squares);
    } else {
      mean = block_sum(total) / count;
      // A second pass over the row, which is in the cache: no cancellation.
      float deviations = 0.0F;
      for (int64_t i = first; i < a.size; i += stride) {
        const Pack<V> value = value_at(i);
        for (int j = 0; j < V; ++j) deviations += (value.at[j] - mean) * (value.at[j] - mean);
      }
      squares = block_sum(deviations);
    }
    const float inverse = 1.0F / sqrtf(squares / count + a.eps);
    if (threadIdx.x == 0) {
      if (a.bias != nullptr) a.mean[row] = mean;
      a.inverse[row] = inverse;
    }
    for (int64_t i = first; i < a.size; i += stride) {
      Pack<V> value = value_at(i);
      const Pack<V> weight = load<V>(a.weight + i);
      for (int j = 0; j < V; ++j) value.at[j] = (value.at[j] - mean) * inverse * weight.at[j];
      if (a.bias != nullptr) {
        const Pack<V> bias = load<V>(a.bias + i);
        for (int j = 0; j < V; ++j) value.at[j] += bias.at[j];
      }
      store(y + i, value);
    }
  }
}

/// A block a row. With n = (x - mean) * inverse and g = grad_y * weight: dx = inverse * (g - mean(g) - n * mean(g * n)), where
/// RMSNorm has no mean(g).
template <typename X, typename T, int V>
__global__ void norm_input_gradients(const NormBackward a) {
  const int64_t first = int64_t{threadIdx.x} * V, stride = int64_t{blockDim.x} * V;
  const auto count = static_cast<float>(a.size);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const X* x = static_cast<const X*>(a.x) + row * a.size;
    const T* grad_y = static_cast<const T*>(a.grad_y) + row * a.size;
    const float mean = a.mean != nullptr ? a.mean[row] : 0.0F;
    const float inverse = a.inverse[row];
    float g_total = 0.0F, gn_total = 0.0F;
    for (int64_t i = first; i < a.size; i += stride) {
      const Pack<V> value = load<V>(x + i), slope = load<V>(grad_y + i), weight = load<V>(a.weight + i);
      for (int j = 0; j < V; ++j) {
        const float g = slope.at[j] * weight.at[j];
        g_total += g;
        gn_total += g * ((value.at[j] - mean) * inverse);
      }
    }
    const float g_mean = a.mean != nullptr ? block_sum(g_total) / count : 0.0F;
    const float gn_mean = block_sum(gn_total) / count;
    for (int64_t i = first; i < a.size; i += stride) {
      const Pack<V> value = load<V>(x + i), slope = load<V>(grad_y + i), weight = load<V>(a.weight + i);
      Pack<V> dx;
      for (int j = 0; j < V; ++j) {
        const float normed = (value.at[j] - mean) * inverse;
        dx.at[j] = (slope.at[j] * weight.at[j] - g_mean - normed * gn_mean) * inverse;
      }
      if (a.grad_sum != nullptr) {
        const Pack<V> more = load<V>(a.grad_sum + row * a.size + i);
        for (int j = 0; j < V; ++j) dx.at[j] += more.at[j];
      }
      if (a.grad_x != nullptr) store(static_cast<X*>(a.grad_x) + row * a.size + i, dx);
      if (a.grad_branch != nullptr) {
        for (int j = 0; j < V; ++j) dx.at[j] *= a.scale;
        store(static_cast<T*>(a.grad_branch) + row * a.size + i, dx);
      }
    }
  }
}

/// A thread a column of one block of rows: the partial sums of weight and bias.
template <typename X, typename T>
__global__ void norm_weight_gradients(const NormBackward a, const int64_t blocks) {
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= a.size) return;
  for (int64_t block = blockIdx.y; block < blocks; block += gridDim.y) {
    const int64_t begin = block * kNormBlock;
    const int64_t end = begin + kNormBlock < a.rows ? begin + kNormBlock : a.rows;
    float of_weight = 0.0F, of_bias = 0.0F;
    for (int64_t row = begin; row < end; ++row) {
      const float value = load<1>(static_cast<const X*>(a.x) + row * a.size + column).at[0];
      const float slope = load<1>(static_cast<const T*>(a.grad_y) + row * a.size + column).at[0];
      const float mean = a.mean != nullptr ? a.mean[row] : 0.0F;
      of_weight += slope * ((value - mean) * a.inverse[row]);
      of_bias += slope;
    }
    if (a.grad_weight != nullptr) a.grad_weight[block * a.size + column] = of_weight;
    if (a.grad_bias != nullptr) a.grad_bias[block * a.size + column] = of_bias;
  }
}

constexpr unsigned int kMostThreads = 256;

}  // namespace

void norm_forward(const NormForward& args, int64_t rows, Stream stream) {
  if (rows == 0 || args.size == 0) return;
  const bool fours = args.size % 4 == 0 && takes_fours(args.x, args.x_type) && takes_fours(args.branch, args.type) &&
                     takes_fours(args.sum, Type::kFloat) && takes_fours(args.weight, Type::kFloat) &&
                     takes_fours(args.bias, Type::kFloat) && takes_fours(args.y, args.type);
  by_type(args.x_type, [&](auto x) {
    by_type(args.type, [&](auto t) {
      by_width(fours, [&](auto width) {
        using X = typename decltype(x)::Element;
        using T = typename decltype(t)::Element;
        constexpr int V = decltype(width)::kPack;
        norm_forward_rows<X, T, V><<<blocks_for(rows), threads_for(args.size / V, kMostThreads), 0, stream>>>(args, rows);
      });
    });
  });
}

void norm_backward(const NormBackward& args, int64_t blocks, Stream stream) {
  if (args.rows == 0 || args.size == 0) return;
  const bool fours = args.size % 4 == 0 && takes_fours(args.x, args.x_type) && takes_fours(args.weight, Type::kFloat) &&
                     takes_fours(args.grad_y, args.type) && takes_fours(args.grad_sum, Type::kFloat) &&
                     takes_fours(args.grad_x, args.x_type) && takes_fours(args.grad_branch, args.type);
  by_type(args.x_type, [&](auto x) {
    by_type(args.type, [&](auto t) {
      using X = typename decltype(x)::Element;
      using T = typename decltype(t)::Element;
      if (args.grad_x != nullptr || args.grad_branch != nullptr) {
        by_width(fours, [&](auto width) {
          constexpr int V = decltype(width)::kPack;
          norm_input_gradients<X, T, V>
              <<<blocks_for(args.rows), threads_for(args.size / V, kMostThreads), 0, stream>>>(args);
        });
      }
      if (args.grad_weight != nullptr || args.grad_bias != nullptr) {
        constexpr int64_t kMostBlocksOfRows = 65535;  // what a grid's second side can have
        const unsigned int threads = threads_for(args.size, 128);
        const dim3 grid(static_cast<unsigned int>((args.size + threads - 1) / threads),
                        static_cast<unsigned int>(std::min(blocks, kMostBlocksOfRows)));
        norm_weight_gradients<X, T><<<grid, threads, 0, stream>>>(args, blocks);
      }
    });
  });
}

}  // namespace pocketvlm::kernels::device
