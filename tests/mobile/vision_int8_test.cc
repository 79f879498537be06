#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "mobile/kernels.h"
#include "mobile/packed_formats.h"
#include "mobile/session.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

std::vector<float> normals(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double dot = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += std::pow(static_cast<double>(a[i]), 2);
    bb += std::pow(static_cast<double>(b[i]), 2);
  }
  return dot / std::sqrt(aa * bb);
}

// The tables of this processor that have products in eight bits.
std::vector<const Kernels*> int8_tables() {
  std::vector<const Kernels*> tables = available_kernels();
  std::erase_if(tables, [](const Kernels* table) { return table->matmul_int8 == nullptr; });
  return tables;
}

std::vector<Line> pack(const std::vector<float>& weights, std::int64_t rows, std::int64_t columns) {
  const std::int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  const std::int64_t bytes = int8_panel_bytes(columns);
  std::vector<Line> memory(static_cast<std::size_t>(panels * bytes / 64));
  for (std::int64_t p = 0; p < panels; ++p) {
    pack_int8_panel(GgmlType::kF32,
                    &weights[static_cast<std::size_t>(p * kPanelRows * columns)],
                    columns * 4,
                    std::min<std::int64_t>(kPanelRows, rows - p * kPanelRows),
                    columns,
                    memory.data()->bytes + p * bytes);
  }
  return memory;
}

// Input rows as one table rounds them.
struct RoundedRows {
  std::int64_t columns, units;
  std::vector<std::int8_t> quants;
  std::vector<float> scales, constants;
  Int8Input view;

  RoundedRows(const Kernels& kernels,
              const std::vector<float>& x,
              std::int64_t tokens,
              std::int64_t width)
      : columns(int8_columns(width)),
        units(columns / PackedInt8::kColumns),
        quants(static_cast<std::size_t>(tokens * columns)),
        scales(static_cast<std::size_t>(tokens * units)),
        constants(scales.size()) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      kernels.quantize_int8(&x[static_cast<std::size_t>(t * width)],
                            width,
                            columns,
                            &quants[static_cast<std::size_t>(t * columns)],
                            &scales[static_cast<std::size_t>(t * units)],
                            &constants[static_cast<std::size_t>(t * units)]);
    }
    view = {.tokens = tokens,
            .columns = columns,
            .quants = quants.data(),
            .scales = scales.data(),
            .constants = constants.data()};
  }
};

TEST(Int8Products, RoundAsThePlainLoop) {
  if (int8_tables().empty()) GTEST_SKIP() << "no AVX-512 VNNI";
  Random random({8});
  for (const Kernels* kernels : int8_tables()) {
    for (const std::int64_t width : {1, 3, 15, 72, 127, 128, 129, 300, 384}) {
      const std::vector<float> x = normals(random, width + 1);
      const std::vector<float> shifted(x.begin() + 1, x.end());
      const RoundedRows got(*kernels, shifted, 1, width);
      for (std::int64_t u = 0; u < got.units; ++u) {
        const auto value = [&](std::int64_t i) {
          return 128 * u + i < width ? shifted[static_cast<std::size_t>(128 * u + i)] : 0.0F;
        };
        float largest = 0.0F;
        for (std::int64_t i = 0; i < 128; ++i) largest = std::max(largest, std::fabs(value(i)));
        const float scale = largest / 127.0F;
        int sum = 0;
        for (std::int64_t i = 0; i < 128; ++i) {
          const auto level = static_cast<int>(std::nearbyint(value(i) * (127.0F / largest)));
          ASSERT_EQ(got.quants[static_cast<std::size_t>(128 * u + i)], level)
              << kernels->name << " " << width;
          sum += level;
        }
        EXPECT_EQ(got.scales[static_cast<std::size_t>(u)], scale);
        EXPECT_EQ(got.constants[static_cast<std::size_t>(u)],
                  -128.0F * scale * static_cast<float>(sum));
      }
    }
  }
}

// The same rounding of weights and inputs, summed in double: what is left is the order of sums.
// Whole numbers up to 127 have scales of one, and every step is exact.
TEST(Int8Products, EqualPlainLoopsOverTheRoundedNumbers) {
  if (int8_tables().empty()) GTEST_SKIP() << "no AVX-512 VNNI";
  Random random({5});
  for (const bool whole : {false, true}) {
    for (const std::int64_t columns : {1, 72, 128, 130, 300, 1700}) {
      for (const std::int64_t rows : {1, 8, 9, 16, 17, 32, 45}) {
        const auto values = [&](std::int64_t count) {
          std::vector<float> all = normals(random, count);
          if (!whole) return all;
          for (std::size_t i = 0; i < all.size(); ++i) {
            const std::int64_t column = static_cast<std::int64_t>(i) % columns;
            const std::int64_t extreme = random.chance(0.3) ? 127 : random.between(-127, 127);
            all[i] = column % 128 == 0 ? -127.0F : static_cast<float>(extreme);
          }
          return all;
        };
        const std::vector<Line> memory = pack(values(rows * columns), rows, columns);
        for (const std::int64_t tokens : {1, 2, 5, 6, 13, 16, 35}) {
          const std::vector<float> x = values(tokens * columns);
          for (const Kernels* kernels : int8_tables()) {
            const RoundedRows input(*kernels, x, tokens, columns);
            const std::int64_t stride = rows + 2;
            std::vector<float> y(static_cast<std::size_t>(tokens * stride), -77.0F);
            kernels->matmul_int8({memory.data(), rows}, input.view, y.data(), stride);
            const auto* unit = reinterpret_cast<const PackedInt8*>(memory.data());
            for (std::int64_t t = 0; t < tokens; ++t) {
              for (std::int64_t r = 0; r < rows; ++r) {
                double want = 0.0;
                for (std::int64_t i = 0; i < input.columns; ++i) {
                  const PackedInt8& block = unit[r / 16 * input.units + i / 128];
                  const int level = block.q[i % 128 / 4][r % 16][i % 4] - 128;
                  const auto at = static_cast<std::size_t>(t * input.units + i / 128);
                  want += static_cast<double>(block.scale[r % 16]) * level *
                          static_cast<double>(input.scales[at]) *
                          input.quants[static_cast<std::size_t>(t * input.columns + i)];
                }
                const double slack =
                    whole ? 0.0 : 2e-5 * std::sqrt(static_cast<double>(columns)) + 1e-4;
                ASSERT_NEAR(
                    static_cast<double>(y[static_cast<std::size_t>(t * stride + r)]), want, slack)
                    << kernels->name << " " << columns << " " << rows << " " << tokens;
              }
              EXPECT_EQ(y[static_cast<std::size_t>(t * stride + rows)], -77.0F);
            }
          }
        }
      }
    }
  }
}

void compare_attention(const Kernels& kernels) {
  Random random({6});
  for (const std::int64_t head_dim : {8, 18, 64, 72, 128}) {
    for (const std::int64_t queries : {1, 12, 13, 30}) {
      for (const std::int64_t keys : {1, 2, 15, 16, 33, 100}) {
        const std::int64_t stride = head_dim + 3;
        const std::vector<float> q = normals(random, queries * stride);
        const std::vector<float> k = normals(random, keys * stride);
        const std::vector<float> v = normals(random, keys * stride);
        std::vector<float> out(static_cast<std::size_t>(queries * stride), -77.0F);
        const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
        kernels.attend_bf16(
            {q.data(), k.data(), v.data(), out.data(), stride, queries, keys, head_dim, scale});
        std::vector<float> want = out;
        for (std::int64_t i = 0; i < queries; ++i) {
          std::vector<double> weights(static_cast<std::size_t>(keys));
          double total = 0.0;
          for (std::int64_t j = 0; j < keys; ++j) {
            double dot = 0.0;
            for (std::int64_t c = 0; c < head_dim; ++c)
              dot += static_cast<double>(q[static_cast<std::size_t>(i * stride + c)]) *
                     static_cast<double>(k[static_cast<std::size_t>(j * stride + c)]);
            weights[static_cast<std::size_t>(j)] = std::exp(dot * static_cast<double>(scale));
            total += weights[static_cast<std::size_t>(j)];
          }
          for (std::int64_t c = 0; c < head_dim; ++c) {
            double sum = 0.0;
            for (std::int64_t j = 0; j < keys; ++j)
              sum += weights[static_cast<std::size_t>(j)] / total *
                     static_cast<double>(v[static_cast<std::size_t>(j * stride + c)]);
            want[static_cast<std::size_t>(i * stride + c)] = static_cast<float>(sum);
          }
        }
        for (std::size_t i = 0; i < out.size(); ++i) {
          // Eight bits of precision in scores, probabilities and values.
          ASSERT_NEAR(out[i], want[i], 0.03)
              << kernels.name << " " << head_dim << " " << queries << " " << keys;
        }
        EXPECT_GT(cosine(out, want), 0.99995)
            << kernels.name << " " << head_dim << " " << queries << " " << keys;
      }
    }
  }
}

TEST(Bf16Attention, EqualsPlainAttentionWithinItsRounding) {
  int tables = 0;
  for (const Kernels* kernels : available_kernels()) {
    if (kernels->attend_bf16 == nullptr) continue;
    ++tables;
    compare_attention(*kernels);
  }
  if (tables == 0) GTEST_SKIP() << "no AVX512_BF16";
}

TEST(Int8Vision, IsCloseToFloatAndKeptBesideTheModel) {
  if (int8_tables().empty()) GTEST_SKIP() << "no AVX-512 VNNI";
  for (const char* kind : {"resampler", "mlp", "ldp", "ldpv2"}) {
    TinyModel model;
    model.projector = kind;
    const TinyFiles files = write_tiny_model(model);
    Session exact(files.language, files.mmproj);
    SessionOptions options;
    options.vision = "int8";
    const EncodedChat prompt = noise_picture(exact);
    const std::vector<float> want = exact.encode_image(prompt);
    Session first(files.language, files.mmproj, options);
    const std::vector<float> got = first.encode_image(prompt);
    EXPECT_GT(cosine(got, want), 0.999) << kind;
    EXPECT_NE(got, want) << kind;
    Session second(files.language, files.mmproj, options);  // reads what the first one wrote
    EXPECT_EQ(second.encode_image(prompt), got) << kind;
  }
}

TEST(Int8Vision, IsRefusedWhereTheKernelsCannot) {
  const TinyFiles files = write_tiny_model({});
  SessionOptions options;
  options.vision = "int8";
  options.kernels = "scalar";
  EXPECT_THROW(Session(files.language, files.mmproj, options), Error);
  options.vision = "int4";
  EXPECT_THROW(Session(files.language, files.mmproj, options), Error);
}

}  // namespace
}  // namespace pocketvlm
