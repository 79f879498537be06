#include "mobile/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "tests/mobile/misplaced.h"

namespace pocketvlm {
namespace {

const std::vector<GgmlType> kFloatTypes = {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16};
const std::vector<GgmlType> kBlockTypes = {GgmlType::kQ8_0,
                                           GgmlType::kQ4_0,
                                           GgmlType::kQ4_1,
                                           GgmlType::kQ5_0,
                                           GgmlType::kQ5_1,
                                           GgmlType::kQ4_K,
                                           GgmlType::kQ5_K,
                                           GgmlType::kQ6_K};

std::vector<float> random_values(Random& random, std::size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

// Weight rows, misplaced as rows inside a file may be: by an even number of bytes, F32 by four.
struct Rows {
  Misplaced<std::byte> memory;
  WeightRows view;

  Rows(GgmlType type,
       const std::vector<float>& values,
       std::int64_t rows,
       std::int64_t columns,
       std::size_t shift)
      : memory(static_cast<std::size_t>(row_bytes(type, columns) * rows), shift) {
    const std::int64_t bytes = row_bytes(type, columns);
    for (std::int64_t r = 0; r < rows; ++r)
      quantize_row(
          type, &values[static_cast<std::size_t>(r * columns)], columns, memory.data() + r * bytes);
    view = {memory.data(), bytes, rows};
  }
  WeightRows first(std::int64_t rows) const { return {view.data, view.row_bytes, rows}; }
};

class KernelTables : public ::testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& kernels_ = *GetParam();
  const Kernels& plain_ = scalar_kernels();
  Random random_{5};

  std::vector<float> multiply(const Kernels& kernels,
                              GgmlType type,
                              const WeightRows& rows,
                              const MatmulInput& input) {
    const std::int64_t stride = rows.rows + 3;
    std::vector<float> y(static_cast<std::size_t>(input.tokens * stride), -77.0F);
    matmul_for(kernels, type)(rows, input, y.data(), stride);
    for (std::int64_t t = 0; t < input.tokens; ++t) {
      for (std::int64_t k = rows.rows; k < stride; ++k)
        EXPECT_EQ(y[static_cast<std::size_t>(t * stride + k)], -77.0F);  // untouched
    }
    return y;
  }
};

std::string table_name(const ::testing::TestParamInfo<const Kernels*>& info) {
  return info.param->name;
}

TEST_P(KernelTables, FloatProductsEqualThePlainLoops) {
  std::size_t shift = 0;
  for (const GgmlType type : kFloatTypes) {
    for (const std::int64_t columns : {1, 3, 8, 15, 16, 17, 72, 96, 131}) {
      shift = (shift + (type == GgmlType::kF32 ? 4 : 2)) % 64;
      const Rows weights(
          type, random_values(random_, static_cast<std::size_t>(19 * columns)), 19, columns, shift);
      for (const std::int64_t rows : {1, 4, 16, 19}) {
        for (const std::int64_t tokens : {1, 2, 6, 7, 13}) {
          const std::int64_t stride = columns + 5;
          std::vector<float> x = random_values(random_, static_cast<std::size_t>(tokens * stride));
          for (std::size_t i = 0; i < x.size(); ++i) {
            if (static_cast<std::int64_t>(i) % stride >= columns)
              x[i] = NAN;  // between the rows: must not be read into results
          }
          const MatmulInput input = {
              .tokens = tokens, .columns = columns, .values = x.data(), .stride = stride};
          const std::vector<float> want = multiply(plain_, type, weights.first(rows), input);
          const std::vector<float> got = multiply(kernels_, type, weights.first(rows), input);
          for (std::size_t i = 0; i < want.size(); ++i) {
            ASSERT_NEAR(got[i], want[i], 1e-5 * std::sqrt(static_cast<double>(columns)))
                << type_info(type).name << " " << columns << " " << rows << " " << tokens;
          }
        }
      }
    }
  }
}

// Small integers are exact in all three types and in their sums, whatever the order.
TEST_P(KernelTables, FloatProductsOfIntegersAreExact) {
  for (const GgmlType type : kFloatTypes) {
    for (const std::int64_t columns : {1, 5, 16, 33, 130}) {
      std::vector<float> values(static_cast<std::size_t>(21 * columns));
      for (float& value : values) value = static_cast<float>(random_.between(-200, 200));
      const Rows weights(type, values, 21, columns, 4);
      std::vector<float> x(static_cast<std::size_t>(7 * columns));
      for (float& value : x) value = static_cast<float>(random_.between(-100, 100));
      const MatmulInput input = {
          .tokens = 7, .columns = columns, .values = x.data(), .stride = columns};
      EXPECT_EQ(multiply(kernels_, type, weights.view, input),
                multiply(plain_, type, weights.view, input))
          << type_info(type).name << " " << columns;
    }
  }
}

TEST_P(KernelTables, ValuesDoNotDependOnTheirNeighbours) {
  const std::int64_t columns = 100;
  const Rows weights(GgmlType::kF16, random_values(random_, 19 * 100), 19, columns, 2);
  const std::vector<float> x = random_values(random_, 13 * 100);
  const MatmulInput all = {.tokens = 13, .columns = columns, .values = x.data(), .stride = columns};
  const std::vector<float> together = multiply(kernels_, GgmlType::kF16, weights.view, all);
  for (std::int64_t t = 0; t < 13; ++t) {
    for (std::int64_t r = 0; r < 19; ++r) {
      const WeightRows one = {
          static_cast<const std::byte*>(weights.view.data) + r * weights.view.row_bytes,
          weights.view.row_bytes,
          1};
      const MatmulInput token = {
          .tokens = 1, .columns = columns, .values = x.data() + t * columns, .stride = columns};
      EXPECT_EQ(multiply(kernels_, GgmlType::kF16, one, token)[0],
                together[static_cast<std::size_t>(t * 22 + r)]);
    }
  }
}

TEST_P(KernelTables, QuantizedProductsEqualThePlainLoops) {
  std::size_t shift = 0;
  for (const GgmlType type : kBlockTypes) {
    const std::int64_t block = type_info(type).block;
    for (const std::int64_t blocks : {1, 2, 3, 16, 17, 18, 33}) {
      if (block == 256 && blocks > 3) continue;
      const std::int64_t columns = block * blocks;
      shift = (shift + 2) % 64;
      const Rows weights(
          type, random_values(random_, static_cast<std::size_t>(21 * columns)), 21, columns, shift);
      for (const std::int64_t tokens : {1, 3, 4, 5, 8, 11}) {
        const std::vector<float> x =
            random_values(random_, static_cast<std::size_t>(tokens * columns));
        const QuantizedInput input(
            plain_, x, tokens, columns, shift + static_cast<std::size_t>(tokens));
        const std::vector<float> all = multiply(plain_, type, weights.view, input.input);
        for (const std::int64_t rows : {1, 7, 16, 21}) {
          const std::vector<float> got = multiply(kernels_, type, weights.first(rows), input.input);
          for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t r = 0; r < rows; ++r) {
              ASSERT_NEAR(got[static_cast<std::size_t>(t * (rows + 3) + r)],
                          all[static_cast<std::size_t>(t * 24 + r)],
                          2e-5 * std::sqrt(static_cast<double>(columns)))
                  << type_info(type).name << " " << blocks << " " << rows << " " << tokens;
            }
          }
        }
      }
    }
  }
}

// Scales that are small powers of two make every float step exact, so that what is left are the
// integer products: these must agree to the last bit, with the extreme levels and inputs.
TEST_P(KernelTables, IntegerPartsAreExact) {
  std::size_t shift = 0;
  for (const GgmlType type : kBlockTypes) {
    const std::int64_t columns = 512;
    const std::int64_t rows = 17;
    const std::int64_t bytes = row_bytes(type, columns);
    const std::int64_t block_bytes = type_info(type).bytes;
    Misplaced<std::uint8_t> memory(static_cast<std::size_t>(bytes * rows), 2 + shift);
    for (std::int64_t at = 0; at < bytes * rows; ++at)
      memory.data()[at] = static_cast<std::uint8_t>(
          random_.chance(0.3) ? (random_.chance(0.5) ? 255 : 0) : random_.below(256));
    const std::uint16_t one = float_to_half(1.0F);
    for (std::int64_t at = 0; at < bytes * rows; at += block_bytes) {
      std::memcpy(memory.data() + at + (type == GgmlType::kQ6_K ? 208 : 0), &one, 2);
      if (type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1 || type == GgmlType::kQ4_K ||
          type == GgmlType::kQ5_K) {
        std::memcpy(memory.data() + at + 2, &one, 2);
      }
      // Sums of Q6_K pass 2^24, where floats end to be exact, with larger scales.
      if (type == GgmlType::kQ6_K) std::memset(memory.data() + at + 192, 2, 16);
    }
    for (const std::int64_t tokens : {1, 2, 3, 9}) {
      shift = (shift + 6) % 60;
      std::vector<float> x(static_cast<std::size_t>(tokens * columns));
      for (std::size_t i = 0; i < x.size(); ++i) {
        // Largest 127, so the scale is exactly one and q = x.
        x[i] = i % 32 == 0
                   ? 127.0F
                   : static_cast<float>(random_.chance(0.2) ? -127 : random_.between(-127, 127));
      }
      const QuantizedInput input(plain_, x, tokens, columns, shift + 1);
      const WeightRows view = {memory.data(), bytes, rows};
      const std::vector<float> got = multiply(kernels_, type, view, input.input);
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t r = 0; r < rows; ++r) {
          std::vector<float> w(static_cast<std::size_t>(columns));
          dequantize_row(type, memory.data() + r * bytes, columns, w.data());
          double want = 0.0;
          for (std::int64_t i = 0; i < columns; ++i)
            want += static_cast<double>(w[static_cast<std::size_t>(i)]) *
                    static_cast<double>(x[static_cast<std::size_t>(t * columns + i)]);
          ASSERT_EQ(static_cast<double>(got[static_cast<std::size_t>(t * (rows + 3) + r)]), want)
              << type_info(type).name;
        }
      }
    }
  }
}

TEST_P(KernelTables, QuantizingIsBitEqual) {
  for (int trial = 0; trial < 50; ++trial) {
    const std::int64_t columns = 32 * (1 + trial % 10);
    const auto size = static_cast<std::size_t>(columns);
    std::vector<float> x = random_values(random_, size);
    if (trial == 0) std::fill(x.begin(), x.end(), 0.0F);
    if (trial == 1)
      for (float& value : x) value = std::round(value * 4.0F) / 4.0F;  // ties
    if (trial == 2)
      for (float& value : x) value *= 1e-30F;
    if (trial == 3)
      for (float& value : x) value *= 1e-41F;  // their inverse is infinite
    if (trial == 4) x[7] = INFINITY, x[40] = NAN;
    const QuantizedInput want(plain_, x, 1, columns);
    const QuantizedInput got(kernels_, x, 1, columns, static_cast<std::size_t>(trial));
    const auto equal = [](const auto* a, const auto* b, std::size_t count) {
      return std::memcmp(a, b, count * sizeof(*a)) == 0;
    };
    EXPECT_TRUE(equal(got.quants.data(), want.quants.data(), size)) << "trial " << trial;
    if (trial == 4) continue;  // NaN comes with any bits
    EXPECT_TRUE(equal(got.scales.data(), want.scales.data(), size / 32)) << "trial " << trial;
    EXPECT_TRUE(equal(got.sums16.data(), want.sums16.data(), size / 16)) << "trial " << trial;
    EXPECT_TRUE(equal(got.sums32.data(), want.sums32.data(), size / 32)) << "trial " << trial;
  }
}

TEST_P(KernelTables, ElementwiseFunctionsEqualThePlainLoops) {
  for (const std::int64_t n : {1, 7, 8, 15, 16, 17, 40, 333}) {
    const auto size = static_cast<std::size_t>(n);
    const std::vector<float> x = random_values(random_, size);
    const std::vector<float> weight = random_values(random_, size);
    const std::vector<float> bias = random_values(random_, size);
    const auto compare = [&](const char* what, double tolerance, const auto& function) {
      std::vector<float> want = x;
      Misplaced<float> got(size + 1, static_cast<std::size_t>(4 * (n % 16)));
      std::copy(x.begin(), x.end(), got.data());
      got.data()[size] = -77.0F;
      function(plain_, want.data());
      function(kernels_, got.data());
      for (std::size_t i = 0; i < size; ++i)
        ASSERT_NEAR(
            got.data()[i], want[i], tolerance * (1.0 + std::fabs(static_cast<double>(want[i]))))
            << what << " " << n << " " << x[i];
      ASSERT_EQ(got.data()[size], -77.0F) << what << " " << n;  // untouched
    };
    compare("softmax", 1e-6, [&](const Kernels& k, float* v) { k.softmax(v, n, 3.0F); });
    compare(
        "silu", 1e-6, [&](const Kernels& k, float* v) { k.silu_multiply(v, weight.data(), n); });
    compare("rms", 1e-6, [&](const Kernels& k, float* v) {
      k.rms_norm(x.data(), weight.data(), n, 1e-5F, v);
    });
    if (n > 1)
      compare("layer norm", 3e-6, [&](const Kernels& k, float* v) {
        k.layer_norm(x.data(), weight.data(), bias.data(), n, 1e-6F, v);
      });
    compare(
        "add", 1e-6, [&](const Kernels& k, float* v) { k.add_scaled(weight.data(), 0.7F, n, v); });
    for (const MobileActivation a : {MobileActivation::kGeluTanh,
                                     MobileActivation::kGeluErf,
                                     MobileActivation::kQuickGelu,
                                     MobileActivation::kSilu}) {
      compare("activation", 1e-6, [&](const Kernels& k, float* v) {
        for (std::int64_t i = 0; i < n; ++i) v[i] *= 4.0F;
        k.activate(a, v, n);
      });
    }
  }
}

// Ties, numbers below the smallest normal half, too large ones; every rest of a vector.
TEST_P(KernelTables, HalvesAreTheSameBits) {
  Random random({31});
  std::vector<float> x = {0.0F,        -0.0F,    1.0F + 0.5F / 1024.0F, 1.0F + 1.5F / 1024.0F,
                          65504.0F,    65520.0F, -1e9F,                 5.9604645e-8F,
                          2.9802322e-8F, 1e-5F,  -6.1e-5F,              INFINITY};
  while (x.size() < 60) x.push_back(static_cast<float>(random.normal()));
  for (std::size_t n = 0; n <= x.size(); ++n) {
    std::vector<std::uint16_t> got(x.size(), 77);
    std::vector<std::uint16_t> want = got;
    for (std::size_t i = 0; i < n; ++i) want[i] = float_to_half(x[i]);
    kernels_.to_half(x.data(), static_cast<std::int64_t>(n), got.data());
    EXPECT_EQ(got, want) << n;
  }
}

TEST_P(KernelTables, ExtremeInputsStayFinite) {
  std::vector<float> x = {-1000.0F, -88.0F, 0.0F, 88.0F, 1000.0F, 1e-30F, -30.0F, 30.0F, 5.0F};
  std::vector<float> probabilities = x;
  kernels_.softmax(probabilities.data(), static_cast<std::int64_t>(x.size()), 1.0F);
  EXPECT_NEAR(probabilities[4], 1.0F, 1e-6);
  for (const MobileActivation a : {MobileActivation::kGeluTanh,
                                   MobileActivation::kGeluErf,
                                   MobileActivation::kQuickGelu,
                                   MobileActivation::kSilu}) {
    std::vector<float> y = x;
    kernels_.activate(a, y.data(), static_cast<std::int64_t>(y.size()));
    EXPECT_EQ(y[4], 1000.0F);
    EXPECT_NEAR(y[0], 0.0F, 1e-6);
    for (const float value : y) EXPECT_TRUE(std::isfinite(value));
  }
}

INSTANTIATE_TEST_SUITE_P(All, KernelTables, ::testing::ValuesIn(available_kernels()), table_name);

TEST(Kernels, AutoIsTheFirstTableAndUnknownNamesAreRefused) {
  EXPECT_STREQ(choose_kernels("auto").name, available_kernels().front()->name);
  EXPECT_STREQ(choose_kernels("scalar").name, "scalar");
  EXPECT_THROW(choose_kernels("fast"), Error);
}

// Every table has a name by which it can be asked for; where it cannot run, the answer names those
// that can.
TEST(Kernels, TablesThatCannotRunHereAreRefusedByName) {
  int refused = 0;
  for (const std::string name :
       {"amx", "avx512vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon", "scalar"}) {
    bool there = false;
    for (const Kernels* table : available_kernels()) there = there || name == table->name;
    try {
      EXPECT_EQ(choose_kernels(name).name, name);
      EXPECT_TRUE(there) << name;
    } catch (const Error& error) {
      ++refused;
      EXPECT_FALSE(there) << name;
      const std::string text = error.what();
      EXPECT_NE(text.find("kernels \"" + name + "\" are not available on this processor"),
                std::string::npos)
          << text;
      EXPECT_NE(text.find("scalar"), std::string::npos) << text;
    }
  }
  EXPECT_GT(refused, 0);  // no processor is both
}

TEST(Kernels, TypesWithoutAProductAreRefused) {
  EXPECT_THROW(matmul_for(scalar_kernels(), GgmlType::kQ2_K), Error);
}

}  // namespace
}  // namespace pocketvlm
