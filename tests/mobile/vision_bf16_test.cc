#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "mobile/kernels.h"
#include "mobile/session.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

const std::vector<GgmlType> kTypes = {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ8_0};

// The tables of this processor that have such products.
std::vector<const Kernels*> bf16_tables() {
  std::vector<const Kernels*> tables = available_kernels();
  std::erase_if(tables, [](const Kernels* table) { return table->prompt_matmul_rows == nullptr; });
  return tables;
}

// Weights in a file's format, rows apart as in a larger matrix, from an odd place on.
struct Rows {
  static constexpr std::int64_t kGap = 6;
  GgmlType type;
  std::int64_t rows, columns, stride;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [rows, columns], what the bytes say

  Rows(GgmlType type, std::int64_t rows, std::int64_t columns, const std::vector<float>& from)
      : type(type),
        rows(rows),
        columns(columns),
        stride(row_bytes(type, columns) + kGap),
        bytes(static_cast<std::size_t>(rows * stride + kGap), std::byte{0xFF}),  // NaN in any type
        values(from.size()) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::byte* row = bytes.data() + kGap + r * stride;
      quantize_row(type, &from[static_cast<std::size_t>(r * columns)], columns, reinterpret_cast<std::uint8_t*>(row));
      dequantize_row(type, row, columns, &values[static_cast<std::size_t>(r * columns)]);
    }
  }

  WeightRows weights() const { return {bytes.data() + kGap, stride, rows}; }
};

// [tokens, rows]; what lies between rows of y must stay.
std::vector<float> product(const Kernels& kernels, const Rows& matrix, const std::vector<float>& x, std::int64_t tokens) {
  PromptInput input = {tokens, matrix.columns, nullptr};
  std::vector<Line> tiles(static_cast<std::size_t>(kernels.prompt_bytes(tokens, matrix.columns) / 64));
  std::memset(tiles.data(), 0xFF, tiles.size() * sizeof(Line));  // what is there from before must not count
  input.tiles = tiles.data();
  for (std::int64_t t = 0; t < tokens; ++t)
    kernels.pack_prompt(&x[static_cast<std::size_t>(t * matrix.columns)], 0, matrix.columns, t, input, tiles.data());
  const std::int64_t stride = matrix.rows + 3;
  std::vector<float> y(static_cast<std::size_t>(tokens * stride), -77.0F);
  kernels.prompt_matmul_rows(matrix.type)(matrix.weights(), input, y.data(), stride);
  std::vector<float> result;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* row = &y[static_cast<std::size_t>(t * stride)];
    result.insert(result.end(), row, row + matrix.rows);
    for (std::int64_t r = matrix.rows; r < stride; ++r) EXPECT_EQ(row[r], -77.0F);
  }
  return result;
}

// Of every product, the plain sum of both factors as they are; `bound` is a share of the sum of all absolute products.
void expect_near(const std::vector<float>& got, const Rows& matrix, const std::vector<float>& x, double bound, const std::string& where) {
  const auto columns = static_cast<std::size_t>(matrix.columns), rows = static_cast<std::size_t>(matrix.rows);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const float* weights = &matrix.values[i % rows * columns];
    const float* inputs = &x[i / rows * columns];
    double sum = 0, absolute = 0;
    for (std::size_t c = 0; c < columns; ++c) {
      sum += static_cast<double>(weights[c]) * inputs[c];
      absolute += std::abs(static_cast<double>(weights[c]) * inputs[c]);
    }
    ASSERT_LE(std::abs(got[i] - sum), bound * absolute) << where << ", place " << i;
  }
}

std::vector<float> normals(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

TEST(Bf16Rows, AreOffByNoMoreThanRoundingToBfloat16) {
  if (bf16_tables().empty()) GTEST_SKIP() << "no AMX";
  Random random({12});
  for (const Kernels* kernels : bf16_tables()) {
    for (const GgmlType type : kTypes) {
      for (const std::int64_t columns : {32, 72, 256, 300, 588}) {
        if (type == GgmlType::kQ8_0 && columns % 32 != 0) continue;
        for (const std::int64_t rows : {1, 15, 16, 17, 33, 70}) {
          const Rows matrix(type, rows, columns, normals(random, rows * columns));
          for (const std::int64_t tokens : {8, 16, 17, 33}) {
            const std::vector<float> x = normals(random, tokens * columns);
            expect_near(product(*kernels, matrix, x, tokens),
                        matrix,
                        x,
                        std::ldexp(1.0, -8) + std::ldexp(1.0, -16),
                        fmt::format("{} {} {} x {}, {} tokens", kernels->name, type_info(type).name, rows, columns, tokens));
          }
        }
      }
    }
  }
}

// Whole numbers up to 127 fit bfloat16, and their sums float32: one that is left out or taken twice is seen. More rows and
// tokens than the kernel keeps sums of at a time.
TEST(Bf16Rows, AreExactForIntegers) {
  if (bf16_tables().empty()) GTEST_SKIP() << "no AMX";
  Random random({13});
  for (const Kernels* kernels : bf16_tables()) {
    for (const GgmlType type : kTypes) {
      const std::int64_t rows = 273, tokens = 530, columns = type == GgmlType::kQ8_0 ? 320 : 301;
      std::vector<float> whole(static_cast<std::size_t>(rows * columns)), x(static_cast<std::size_t>(tokens * columns));
      for (std::size_t i = 0; i < whole.size(); ++i) whole[i] = i % 32 == 0 ? 127.0F : static_cast<float>(random.between(-127, 127));
      for (float& value : x) value = static_cast<float>(random.between(-127, 127));
      const Rows matrix(type, rows, columns, whole);
      ASSERT_EQ(matrix.values, whole);
      expect_near(product(*kernels, matrix, x, tokens), matrix, x, 0.0, fmt::format("{} {}", kernels->name, type_info(type).name));
    }
  }
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(a[i] - b[i], 2);
  return std::sqrt(sum);
}

TEST(Bf16Vision, IsCloserToFloatThanEightBitsAre) {
  if (bf16_tables().empty()) GTEST_SKIP() << "no AMX";
  for (const char* kind : {"resampler", "mlp", "ldp", "ldpv2"}) {
    TinyModel model;
    model.projector = kind;
    const TinyFiles files = write_tiny_model(model);
    Session exact(files.language, files.mmproj);
    const EncodedChat prompt = noise_picture(exact);
    const std::vector<float> want = exact.encode_image(prompt);
    const auto off = [&](const std::string& vision) {
      SessionOptions options;
      options.vision = vision;
      return distance(Session(files.language, files.mmproj, options).encode_image(prompt), want);
    };
    const double length = distance(want, std::vector<float>(want.size(), 0.0F));
    EXPECT_LT(off("bf16"), 0.01 * length) << kind;
    EXPECT_GT(off("bf16"), 0.0) << kind;
    EXPECT_LT(off("bf16"), off("int8")) << kind;
  }
}

TEST(Bf16Vision, IsRefusedWhereTheKernelsCannot) {
  const TinyFiles files = write_tiny_model({});
  SessionOptions options;
  options.vision = "bf16";
  options.kernels = "scalar";
  try {
    Session(files.language, files.mmproj, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("needs AMX, which the kernels \"scalar\" do not use; choose float or int8"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace pocketvlm
