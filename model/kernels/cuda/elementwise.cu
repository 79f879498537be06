#include "model/kernels/cuda/lanes.cuh"

namespace pocketvlm::kernels::device {
namespace {

constexpr unsigned int kThreads = 256;

/// `packs` of elements, one a thread and round.
unsigned int blocks_for_elements(int64_t packs) { return blocks_for((packs + kThreads - 1) / kThreads); }

template <typename T, int V>
__global__ void add_branch_range(const AddBranch a, const int64_t count) {
  const T* branch = static_cast<const T*>(a.branch);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x * V;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V; i < count; i += stride) {
    Pack<V> value = load<V>(a.x + i);
    const Pack<V> more = load<V>(branch + i);
    for (int j = 0; j < V; ++j) value.at[j] += more.at[j] * a.scale;
    store(a.out + i, value);
  }
}

template <typename T, int V>
__global__ void scale_to_range(const ScaleTo a, const int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x * V;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V; i < count; i += stride) {
    Pack<V> value = load<V>(a.x + i);
    for (int j = 0; j < V; ++j) value.at[j] *= a.scale;
    store(static_cast<T*>(a.out) + i, value);
  }
}

/// A block a row.
template <typename T, int V>
__global__ void swiglu_forward_rows(const Swiglu a, const int64_t rows) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* gate = static_cast<const T*>(a.gate_up) + row * 2 * a.ffn;
    const T* up = gate + a.ffn;
    T* y = static_cast<T*>(a.y) + row * a.ffn;
    for (int64_t i = int64_t{threadIdx.x} * V; i < a.ffn; i += int64_t{blockDim.x} * V) {
      Pack<V> g = load<V>(gate + i);
      const Pack<V> u = load<V>(up + i);
      for (int j = 0; j < V; ++j) g.at[j] = g.at[j] / (1.0F + expf(-g.at[j])) * u.at[j];
      store(y + i, g);
    }
  }
}

template <typename T, int V>
__global__ void swiglu_backward_rows(const Swiglu a, const int64_t rows) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* gate = static_cast<const T*>(a.gate_up) + row * 2 * a.ffn;
    const T* up = gate + a.ffn;
    const T* grad_y = static_cast<const T*>(a.grad_y) + row * a.ffn;
    T* grad_gate = static_cast<T*>(a.grad_gate_up) + row * 2 * a.ffn;
    T* grad_up = grad_gate + a.ffn;
    for (int64_t i = int64_t{threadIdx.x} * V; i < a.ffn; i += int64_t{blockDim.x} * V) {
      Pack<V> g = load<V>(gate + i), u = load<V>(up + i);
      const Pack<V> dy = load<V>(grad_y + i);
      for (int j = 0; j < V; ++j) {
        const float sigmoid = 1.0F / (1.0F + expf(-g.at[j]));
        const float silu = g.at[j] * sigmoid;
        g.at[j] = dy.at[j] * u.at[j] * (sigmoid + silu * (1.0F - sigmoid));
        u.at[j] = dy.at[j] * silu;
      }
      store(grad_gate + i, g);
      store(grad_up + i, u);
    }
  }
}

/// A block a token. A thread reads both channels of a pair before it writes them, so x and out may be the same.
template <typename T, int V>
__global__ void rotary_tokens(const Rotary a, const int64_t tokens) {
  const int64_t half = a.head_dim / 2, packs_a_head = half / V, rotated = a.heads * a.head_dim;
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride;
    T* out = static_cast<T*>(a.out) + token * a.out_stride;
    for (int64_t pack = threadIdx.x; pack < a.heads * packs_a_head; pack += blockDim.x) {
      const int64_t channel = pack % packs_a_head * V, place = pack / packs_a_head * a.head_dim + channel;
      Pack<V> low = load<V>(x + place), high = load<V>(x + place + half);
      const Pack<V> cosine = load<V>(a.cosine + token * half + channel), sine = load<V>(a.sine + token * half + channel);
      for (int j = 0; j < V; ++j) {
        const float s = a.inverse ? -sine.at[j] : sine.at[j];
        const float turned = low.at[j] * cosine.at[j] - high.at[j] * s;
        high.at[j] = high.at[j] * cosine.at[j] + low.at[j] * s;
        low.at[j] = turned;
      }
      store(out + place, low);
      store(out + place + half, high);
    }
    for (int64_t i = threadIdx.x; i < a.passed * a.head_dim; i += blockDim.x) out[rotated + i] = x[rotated + i];
  }
}

}  // namespace

void add_branch(const AddBranch& args, int64_t count, Stream stream) {
  if (count == 0) return;
  const bool fours = count % 4 == 0 && takes_fours(args.x, Type::kFloat) && takes_fours(args.branch, args.type) &&
                     takes_fours(args.out, Type::kFloat);
  by_type(args.type, [&](auto t) {
    by_width(fours, [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      add_branch_range<typename decltype(t)::Element, V>
          <<<blocks_for_elements(count / V), kThreads, 0, stream>>>(args, count);
    });
  });
}

void scale_to(const ScaleTo& args, int64_t count, Stream stream) {
  if (count == 0) return;
  const bool fours = count % 4 == 0 && takes_fours(args.x, Type::kFloat) && takes_fours(args.out, args.type);
  by_type(args.type, [&](auto t) {
    by_width(fours, [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      scale_to_range<typename decltype(t)::Element, V><<<blocks_for_elements(count / V), kThreads, 0, stream>>>(args, count);
    });
  });
}

void swiglu_forward(const Swiglu& args, int64_t rows, Stream stream) {
  if (rows == 0 || args.ffn == 0) return;
  const bool fours = args.ffn % 4 == 0 && takes_fours(args.gate_up, args.type) && takes_fours(args.y, args.type);
  by_type(args.type, [&](auto t) {
    by_width(fours, [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      swiglu_forward_rows<typename decltype(t)::Element, V>
          <<<blocks_for(rows), threads_for(args.ffn / V, kThreads), 0, stream>>>(args, rows);
    });
  });
}

void swiglu_backward(const Swiglu& args, int64_t rows, Stream stream) {
  if (rows == 0 || args.ffn == 0) return;
  const bool fours = args.ffn % 4 == 0 && takes_fours(args.gate_up, args.type) && takes_fours(args.grad_y, args.type) &&
                     takes_fours(args.grad_gate_up, args.type);
  by_type(args.type, [&](auto t) {
    by_width(fours, [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      swiglu_backward_rows<typename decltype(t)::Element, V>
          <<<blocks_for(rows), threads_for(args.ffn / V, kThreads), 0, stream>>>(args, rows);
    });
  });
}

void rotary(const Rotary& args, int64_t tokens, Stream stream) {
  if (tokens == 0 || args.heads == 0) return;
  const int64_t half = args.head_dim / 2;
  const bool fours = half % 4 == 0 && args.x_stride % 4 == 0 && args.out_stride % 4 == 0 && takes_fours(args.x, args.type) &&
                     takes_fours(args.out, args.type) && takes_fours(args.cosine, Type::kFloat) &&
                     takes_fours(args.sine, Type::kFloat);
  by_type(args.type, [&](auto t) {
    by_width(fours, [&](auto width) {
      constexpr int V = decltype(width)::kPack;
      rotary_tokens<typename decltype(t)::Element, V>
          <<<blocks_for(tokens), threads_for(args.heads * half / V, kThreads), 0, stream>>>(args, tokens);
    });
  });
}

}  // namespace pocketvlm::kernels::device
