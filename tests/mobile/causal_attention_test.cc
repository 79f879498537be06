#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "mobile/kernels.h"
#include "mobile/quants.h"

namespace pocketvlm {
namespace {

std::vector<float> normals(Random& random, std::int64_t count, double width) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(width * random.normal());
  return values;
}

struct Cache {
  std::vector<std::uint16_t> halves;
  std::vector<float> values;  // what the halves stand for
};

// Rows of `used` numbers, `stride` apart; what lies behind them is not a number.
Cache random_cache(
    Random& random, std::int64_t rows, std::int64_t used, std::int64_t stride, double width) {
  Cache cache;
  cache.values = normals(random, rows * stride, width);
  for (std::int64_t i = 0; i < rows * stride; ++i) {
    float& value = cache.values[static_cast<std::size_t>(i)];
    if (i % stride >= used) value = NAN;
    cache.halves.push_back(float_to_half(value));
    value = half_to_float(cache.halves.back());
  }
  return cache;
}

struct Shape {
  std::int64_t head_dim, queries, first_seen;
};

void compare(const Kernels& kernels, const Shape& shape, Random& random) {
  const auto [head_dim, queries, first_seen] = shape;
  const std::int64_t keys = first_seen + queries - 1;
  const std::int64_t stride = head_dim + 3;
  const std::int64_t value_stride = keys + 5;
  const std::vector<float> q = normals(random, queries * stride, 3.0);
  const Cache key_cache = random_cache(random, keys, head_dim, head_dim, 1.0);
  const Cache value_cache = random_cache(random, head_dim, keys, value_stride, 1.0);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  std::vector<float> out = q;
  kernels.attend_causal({.q = out.data(),
                         .out = out.data(),
                         .stride = stride,
                         .queries = queries,
                         .first_seen = first_seen,
                         .keys = key_cache.halves.data(),
                         .values = value_cache.halves.data(),
                         .value_stride = value_stride,
                         .head_dim = head_dim,
                         .scale = scale});
  for (std::int64_t i = 0; i < queries; ++i) {
    const float* query = &q[static_cast<std::size_t>(i * stride)];
    std::vector<double> weights;
    double total = 0.0;
    for (std::int64_t j = 0; j < first_seen + i; ++j) {
      double dot = 0.0;
      for (std::int64_t c = 0; c < head_dim; ++c) {
        dot += static_cast<double>(query[c]) *
               static_cast<double>(key_cache.values[static_cast<std::size_t>(j * head_dim + c)]);
      }
      weights.push_back(std::exp(dot * static_cast<double>(scale)));
      total += weights.back();
    }
    for (std::int64_t c = 0; c < head_dim; ++c) {
      double want = 0.0;
      for (std::size_t j = 0; j < weights.size(); ++j) {
        const auto at = static_cast<std::size_t>(c * value_stride) + j;
        want += weights[j] / total * static_cast<double>(value_cache.values[at]);
      }
      const auto at = static_cast<std::size_t>(i * stride + c);
      ASSERT_NEAR(static_cast<double>(out[at]), want, 1e-4)
          << kernels.name << " " << head_dim << " " << queries << " " << first_seen << " query "
          << i << " channel " << c;
    }
    for (std::int64_t c = head_dim; c < stride; ++c) {
      const auto at = static_cast<std::size_t>(i * stride + c);
      ASSERT_EQ(out[at], q[at]) << "between the rows";
    }
  }
}

// Prompts at the start and behind what is there already, shorter and longer than the blocks of keys.
TEST(CausalAttention, EqualsPlainAttention) {
  Random random({9});
  int tables = 0;
  for (const Kernels* kernels : available_kernels()) {
    if (kernels->attend_causal == nullptr) continue;
    ++tables;
    for (const std::int64_t head_dim : {8, 24, 64, 80, 128}) {
      for (const std::int64_t queries : {1, 15, 16, 33, 100}) {
        for (const std::int64_t first_seen : {1, 2, 31, 500, 513})
          compare(*kernels, {head_dim, queries, first_seen}, random);
      }
    }
    compare(*kernels, {64, 256, 900}, random);
  }
  if (tables == 0) GTEST_SKIP() << "no AMX";
}

}  // namespace
}  // namespace pocketvlm
