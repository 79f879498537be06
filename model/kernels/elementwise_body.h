#pragma once

#include "model/kernels/lanes.h"

namespace pocketvlm::kernels {
namespace {

template <typename X, typename T>
void norm_forward_rows(const NormForward& a, int64_t row_begin, int64_t row_end) {
  const int64_t size = a.size;
  const auto count = static_cast<float>(size);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const X* x = static_cast<const X*>(a.x) + row * size;
    const T* branch = a.branch != nullptr ? static_cast<const T*>(a.branch) + row * size : nullptr;
    float* added = branch != nullptr ? a.sum + row * size : nullptr;
    T* y = static_cast<T*>(a.y) + row * size;
    Floats total = {}, squares = {};
    for_lanes(size, [&](int64_t i, int64_t n) {
      Floats v = load_lanes(x + i, n);
      if (branch != nullptr) {
        v += load_lanes(branch + i, n) * a.scale;
        store_lanes(added + i, v, n);
      }
      total += v;
      squares += v * v;
    });
    const auto value = [&](int64_t i, int64_t n) {
      return added != nullptr ? load_lanes(added + i, n) : load_lanes(x + i, n);
    };
    if (a.bias == nullptr) {
      const float inverse = 1.0F / __builtin_sqrtf(sum(squares) / count + a.eps);
      a.inverse[row] = inverse;
      for_lanes(size, [&](int64_t i, int64_t n) {
        store_lanes(y + i, value(i, n) * inverse * load_lanes(a.weight + i, n), n);
      });
      continue;
    }
    const float mean = sum(total) / count;
    // A second pass over the row, which is in the first-level cache: no cancellation.
    Floats deviations = {};
    for_lanes(size, [&](int64_t i, int64_t n) {
      Floats d = value(i, n) - mean;
      if (n < kLanes) {
        for (int64_t j = n; j < kLanes; ++j) d[j] = 0.0F;
      }
      deviations += d * d;
    });
    const float inverse = 1.0F / __builtin_sqrtf(sum(deviations) / count + a.eps);
    a.mean[row] = mean;
    a.inverse[row] = inverse;
    for_lanes(size, [&](int64_t i, int64_t n) {
      store_lanes(y + i, (value(i, n) - mean) * inverse * load_lanes(a.weight + i, n) + load_lanes(a.bias + i, n), n);
    });
  }
}

template <typename X, typename T>
void norm_backward_blocks(const NormBackward& a, int64_t block_begin, int64_t block_end) {
  const int64_t size = a.size;
  const auto count = static_cast<float>(size);
  for (int64_t block = block_begin; block < block_end; ++block) {
    float* grad_weight = a.grad_weight != nullptr ? a.grad_weight + block * size : nullptr;
    float* grad_bias = a.grad_bias != nullptr ? a.grad_bias + block * size : nullptr;
    if (grad_weight != nullptr) std::memset(grad_weight, 0, static_cast<std::size_t>(size) * sizeof(float));
    if (grad_bias != nullptr) std::memset(grad_bias, 0, static_cast<std::size_t>(size) * sizeof(float));
    const int64_t last = (block + 1) * kNormBlock < a.rows ? (block + 1) * kNormBlock : a.rows;
    for (int64_t row = block * kNormBlock; row < last; ++row) {
      const X* x = static_cast<const X*>(a.x) + row * size;
      const T* grad_y = static_cast<const T*>(a.grad_y) + row * size;
      const float mean = a.mean != nullptr ? a.mean[row] : 0.0F;
      const float inverse = a.inverse[row];
      // With n = (x - mean) * inverse and g = grad_y * weight: dx = inverse * (g - mean(g) - n * mean(g * n)), where
      // RMSNorm has no mean(g).
      Floats g_total = {}, gn_total = {};
      for_lanes(size, [&](int64_t i, int64_t n) {
        const Floats normed = (load_lanes(x + i, n) - mean) * inverse;
        const Floats dy = load_lanes(grad_y + i, n);  // zero beyond the row
        const Floats g = dy * load_lanes(a.weight + i, n);
        g_total += g;
        gn_total += g * normed;
        if (grad_weight != nullptr) {
          store_lanes(grad_weight + i, load_lanes(grad_weight + i, n) + dy * normed, n);
        }
        if (grad_bias != nullptr) store_lanes(grad_bias + i, load_lanes(grad_bias + i, n) + dy, n);
      });
      if (a.grad_x == nullptr && a.grad_branch == nullptr) continue;
      const float g_mean = a.mean != nullptr ? sum(g_total) / count : 0.0F;
      const float gn_mean = sum(gn_total) / count;
      for_lanes(size, [&](int64_t i, int64_t n) {
        const Floats normed = (load_lanes(x + i, n) - mean) * inverse;
        const Floats g = load_lanes(grad_y + i, n) * load_lanes(a.weight + i, n);
        Floats dx = (g - g_mean - normed * gn_mean) * inverse;
        if (a.grad_sum != nullptr) dx += load_lanes(a.grad_sum + row * size + i, n);
        if (a.grad_x != nullptr) store_lanes(static_cast<X*>(a.grad_x) + row * size + i, dx, n);
        if (a.grad_branch != nullptr) {
          store_lanes(static_cast<T*>(a.grad_branch) + row * size + i, dx * a.scale, n);
        }
      });
    }
  }
}

template <typename T>
void add_branch_range(const AddBranch& a, int64_t begin, int64_t end) {
  const T* branch = static_cast<const T*>(a.branch);
  for_lanes(end - begin, [&](int64_t i, int64_t n) {
    const int64_t at = begin + i;
    store_lanes(a.out + at, load_lanes(a.x + at, n) + load_lanes(branch + at, n) * a.scale, n);
  });
}

template <typename T>
void scale_to_range(const ScaleTo& a, int64_t begin, int64_t end) {
  T* out = static_cast<T*>(a.out);
  for_lanes(end - begin, [&](int64_t i, int64_t n) {
    store_lanes(out + begin + i, load_lanes(a.x + begin + i, n) * a.scale, n);
  });
}

template <typename T>
void swiglu_forward_rows(const Swiglu& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* gate = static_cast<const T*>(a.gate_up) + row * 2 * a.ffn;
    const T* up = gate + a.ffn;
    T* y = static_cast<T*>(a.y) + row * a.ffn;
    for_lanes(a.ffn, [&](int64_t i, int64_t n) {
      const Floats g = load_lanes(gate + i, n);
      store_lanes(y + i, g / (1.0F + exponential(-g)) * load_lanes(up + i, n), n);
    });
  }
}

template <typename T>
void swiglu_backward_rows(const Swiglu& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* gate = static_cast<const T*>(a.gate_up) + row * 2 * a.ffn;
    const T* up = gate + a.ffn;
    const T* grad_y = static_cast<const T*>(a.grad_y) + row * a.ffn;
    T* grad_gate = static_cast<T*>(a.grad_gate_up) + row * 2 * a.ffn;
    T* grad_up = grad_gate + a.ffn;
    for_lanes(a.ffn, [&](int64_t i, int64_t n) {
      const Floats g = load_lanes(gate + i, n);
      const Floats dy = load_lanes(grad_y + i, n);
      const Floats sigmoid = 1.0F / (1.0F + exponential(-g));
      const Floats silu = g * sigmoid;
      store_lanes(grad_up + i, dy * silu, n);
      store_lanes(grad_gate + i, dy * load_lanes(up + i, n) * (sigmoid + silu * (1.0F - sigmoid)), n);
    });
  }
}

/// sigmoid(linear * x + cubic * x^3)
POCKETVLM_INLINE Floats gate_of(const SigmoidGate& a, Floats x) {
  return 1.0F / (1.0F + exponential(-x * (a.linear + a.cubic * x * x)));
}

template <typename T>
void sigmoid_gate_forward_range(const SigmoidGate& a, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(a.x) + begin;
  T* y = static_cast<T*>(a.y) + begin;
  for_lanes(end - begin, [&](int64_t i, int64_t n) {
    const Floats v = load_lanes(x + i, n);
    store_lanes(y + i, v * gate_of(a, v), n);
  });
}

template <typename T>
void sigmoid_gate_backward_range(const SigmoidGate& a, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(a.x) + begin;
  const T* grad_y = static_cast<const T*>(a.grad_y) + begin;
  T* grad_x = static_cast<T*>(a.grad_x) + begin;
  for_lanes(end - begin, [&](int64_t i, int64_t n) {
    const Floats v = load_lanes(x + i, n);
    const Floats gate = gate_of(a, v);
    // Where the gate has settled, infinity times its zero would not be a number.
    const Floats slope = minimum(maximum(v * (a.linear + 3.0F * a.cubic * v * v), broadcast(-1e25F)), broadcast(1e25F));
    store_lanes(grad_x + i, load_lanes(grad_y + i, n) * gate * (1.0F + slope * (1.0F - gate)), n);
  });
}

template <typename T>
void rotary_tokens(const Rotary& a, int64_t token_begin, int64_t token_end) {
  const int64_t half = a.head_dim / 2;
  for (int64_t token = token_begin; token < token_end; ++token) {
    const float* cosine = a.cosine + token * half;
    const float* sine = a.sine + token * half;
    for (int64_t head = 0; head < a.heads; ++head) {
      const T* x = static_cast<const T*>(a.x) + token * a.x_stride + head * a.head_dim;
      T* out = static_cast<T*>(a.out) + token * a.out_stride + head * a.head_dim;
      for_lanes(half, [&](int64_t i, int64_t n) {
        const Floats low = load_lanes(x + i, n), high = load_lanes(x + half + i, n);
        const Floats c = load_lanes(cosine + i, n);
        const Floats s = a.inverse ? -load_lanes(sine + i, n) : load_lanes(sine + i, n);
        store_lanes(out + i, low * c - high * s, n);
        store_lanes(out + half + i, high * c + low * s, n);
      });
    }
    if (a.passed == 0) continue;
    const int64_t begin = a.heads * a.head_dim;
    std::memcpy(static_cast<T*>(a.out) + token * a.out_stride + begin,
                static_cast<const T*>(a.x) + token * a.x_stride + begin,
                static_cast<std::size_t>(a.passed * a.head_dim) * sizeof(T));
  }
}

[[maybe_unused]] void exp_row(const ExpRow& a) {
  constexpr int64_t kPart = 1024;  // elements summed in float before they join the double
  const auto load_or_nothing = [&](int64_t i, int64_t n) {
    Floats v = load_lanes(a.x + i, n);
    for (int64_t j = n; j < kLanes; ++j) v[j] = -__builtin_inff();
    return v;
  };
  Floats best = broadcast(-3.4e38F);
  for_lanes(a.count, [&](int64_t i, int64_t n) { best = maximum(load_or_nothing(i, n), best); });
  const float top = largest(best);
  double total = 0.0;
  for (int64_t begin = 0; begin < a.count; begin += kPart) {
    Floats part = {};
    for_lanes(smaller(kPart, a.count - begin), [&](int64_t i, int64_t n) {
      const Floats weight = exponential(load_or_nothing(begin + i, n) - top);
      if (a.weights != nullptr) store_lanes(a.weights + begin + i, weight, n);
      part += weight;
    });
    total += static_cast<double>(sum(part));
  }
  *a.largest = top;
  *a.total = total;
}

template <typename T>
void log_sum_rows(const LogitBlock& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* logits = static_cast<const T*>(a.logits) + row * a.stride;
    Floats best = broadcast(-3.4e38F);
    for_lanes(a.count, [&](int64_t i, int64_t n) {
      Floats v = load_lanes(logits + i, n);
      if (n < kLanes) {
        for (int64_t j = n; j < kLanes; ++j) v[j] = -3.4e38F;
      }
      best = maximum(best, v);
    });
    const float top = largest(best);
    Floats total = {};
    for_lanes(a.count, [&](int64_t i, int64_t n) {
      Floats v = exponential(load_lanes(logits + i, n) - top);
      if (n < kLanes) {
        for (int64_t j = n; j < kLanes; ++j) v[j] = 0.0F;
      }
      total += v;
    });
    const float here = top + __builtin_logf(sum(total));
    const float before = a.log_sum[row];  // minus infinity before the first block
    const float high = here > before ? here : before;
    const float low = here > before ? before : here;
    a.log_sum[row] = high + __builtin_log1pf(__builtin_expf(low - high));
    const int64_t column = a.targets[row] - a.first_id;
    if (column >= 0 && column < a.count) a.picked[row] = sum(load_part(logits + column, 1));
  }
}

template <typename T>
void logit_gradient_rows(const LogitBlock& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    T* logits = static_cast<T*>(a.logits) + row * a.stride;
    const float log_sum = a.log_sum[row];
    const float grad = a.grad[row];
    const int64_t column = a.targets[row] - a.first_id;
    float target_slope = 0.0F;
    if (column >= 0 && column < a.count) {
      target_slope = grad * (1.0F - exponential(load_part(logits + column, 1) - log_sum)[0]);
    }
    // d log p[target] / d logit = [target] - softmax
    for_lanes(a.count, [&](int64_t i, int64_t n) {
      store_lanes(logits + i, exponential(load_lanes(logits + i, n) - log_sum) * -grad, n);
    });
    if (column >= 0 && column < a.count) store_part(logits + column, broadcast(target_slope), 1);
  }
}

}  // namespace
}  // namespace pocketvlm::kernels
