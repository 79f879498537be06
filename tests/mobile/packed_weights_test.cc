#include "mobile/packed_weights.h"

#include <gtest/gtest.h>

#include <chrono>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "mobile/kernels.h"
#include "mobile/packed_formats.h"
#include "mobile/session.h"
#include "tests/mobile/misplaced.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

const std::vector<GgmlType> kPackedTypes = {GgmlType::kQ8_0,
                                            GgmlType::kQ4_0,
                                            GgmlType::kQ4_1,
                                            GgmlType::kQ5_0,
                                            GgmlType::kQ4_K,
                                            GgmlType::kQ6_K};

// A matrix in the file format and in panels.
struct Matrix {
  GgmlType type;
  std::int64_t rows, columns, row_size;
  std::vector<std::uint8_t> plain;
  std::vector<Line> packed;

  Matrix(GgmlType type, std::int64_t rows, std::int64_t columns)
      : type(type),
        rows(rows),
        columns(columns),
        row_size(row_bytes(type, columns)),
        plain(static_cast<std::size_t>(rows * row_size)) {}

  void pack() {
    const std::int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
    const std::int64_t bytes = panel_bytes(type, columns);
    packed.resize(static_cast<std::size_t>(panels * bytes / 64));
    for (std::int64_t p = 0; p < panels; ++p) {
      pack_panel(type,
                 plain.data() + p * kPanelRows * row_size,
                 row_size,
                 std::min<std::int64_t>(kPanelRows, rows - p * kPanelRows),
                 columns,
                 packed.data()->bytes + p * bytes);
    }
  }
};

// Products of every table that reads panels, against the plain loops on the file format.
void compare(const Matrix& matrix, const MatmulInput& input, double tolerance) {
  const std::int64_t stride = matrix.rows + 3;
  const auto size = static_cast<std::size_t>(input.tokens * stride);
  std::vector<float> want(size, -77.0F);
  matmul_for(scalar_kernels(), matrix.type)(
      {matrix.plain.data(), matrix.row_size, matrix.rows}, input, want.data(), stride);
  for (const Kernels* kernels : available_kernels()) {
    const PackedMatmulFunction product = packed_matmul_for(*kernels, matrix.type, matrix.columns);
    if (product == nullptr) continue;
    std::vector<float> got(size, -77.0F);  // what lies between the rows must stay as it is
    product({matrix.packed.data(), matrix.rows}, input, got.data(), stride);
    for (std::size_t i = 0; i < size; ++i) {
      ASSERT_NEAR(got[i], want[i], tolerance)
          << kernels->name << " " << type_info(matrix.type).name << " " << matrix.rows << " x "
          << matrix.columns << ", " << input.tokens << " tokens, place " << i;
    }
  }
}

TEST(PackedProducts, EqualThePlainLoops) {
  Random random({3});
  std::size_t shift = 0;
  for (const GgmlType type : kPackedTypes) {
    const std::int64_t unit = type_info(type).block == 256 ? 256 : 64;
    for (const std::int64_t columns : {unit, 2 * unit, 5 * unit}) {
      Matrix all(type, 201, columns);
      std::vector<float> row(static_cast<std::size_t>(columns));
      for (std::int64_t r = 0; r < all.rows; ++r) {
        for (float& value : row) value = static_cast<float>(random.normal());
        quantize_row(
            type, row.data(), columns, &all.plain[static_cast<std::size_t>(r * all.row_size)]);
      }
      for (const std::int64_t rows : {1, 8, 9, 15, 16, 17, 32, 33, 50, 64, 112, 201}) {
        Matrix matrix(type, rows, columns);
        std::copy_n(all.plain.begin(), matrix.plain.size(), matrix.plain.begin());
        matrix.pack();
        for (const std::int64_t tokens : {1, 2, 3, 4, 6, 7, 12, 13, 27}) {
          std::vector<float> x(static_cast<std::size_t>(tokens * columns));
          for (float& value : x) value = static_cast<float>(random.normal());
          shift = (shift + 1) % 64;
          const QuantizedInput inputs(scalar_kernels(), x, tokens, columns, shift);
          compare(matrix, inputs.input, 2e-5 * std::sqrt(static_cast<double>(columns)));
        }
      }
    }
  }
}

// Rows longer than what kernels take at a time, prompts of several tiles and a part of one.
TEST(PackedProducts, LongRowsAndPromptsEqualThePlainLoops) {
  Random random({6});
  for (const GgmlType type : kPackedTypes) {
    const std::int64_t unit = type_info(type).block == 256 ? 256 : 64;
    for (const std::int64_t columns : {2048 + unit, 2 * 2048 + 3 * unit}) {
      Matrix matrix(type, 35, columns);
      std::vector<float> row(static_cast<std::size_t>(columns));
      for (std::int64_t r = 0; r < matrix.rows; ++r) {
        for (float& value : row) value = static_cast<float>(random.normal());
        quantize_row(type,
                     row.data(),
                     columns,
                     &matrix.plain[static_cast<std::size_t>(r * matrix.row_size)]);
      }
      matrix.pack();
      for (const std::int64_t tokens : {8, 16, 37}) {
        std::vector<float> x(static_cast<std::size_t>(tokens * columns));
        for (float& value : x) value = static_cast<float>(random.normal());
        const QuantizedInput inputs(scalar_kernels(), x, tokens, columns, 5);
        compare(matrix, inputs.input, 2e-5 * std::sqrt(static_cast<double>(columns)));
      }
    }
  }
}

// The product of a prompt in bfloat16, its rows placed in two parts and in turn; what lies between rows of y must stay.
std::vector<float> prompt_product(const Kernels& kernels, const Matrix& matrix, const std::vector<float>& x, std::int64_t tokens) {
  const std::int64_t columns = matrix.columns;
  PromptInput input = {tokens, columns, nullptr};
  std::vector<Line> tiles(static_cast<std::size_t>(kernels.prompt_bytes(tokens, columns) / 64));
  input.tiles = tiles.data();
  const std::int64_t half = columns / 64 * 32;
  for (std::int64_t t = tokens - 1; t >= 0; --t) {
    kernels.pack_prompt(&x[static_cast<std::size_t>(t * columns + half)], half, columns - half, t, input, tiles.data());
    kernels.pack_prompt(&x[static_cast<std::size_t>(t * columns)], 0, half, t, input, tiles.data());
  }
  const std::int64_t stride = matrix.rows + 3;
  std::vector<float> y(static_cast<std::size_t>(tokens * stride), -77.0F);
  kernels.prompt_matmul(matrix.type)({matrix.packed.data(), matrix.rows}, input, y.data(), stride);
  std::vector<float> product;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* row = &y[static_cast<std::size_t>(t * stride)];
    product.insert(product.end(), row, row + matrix.rows);
    for (std::int64_t r = matrix.rows; r < stride; ++r) EXPECT_EQ(row[r], -77.0F);
  }
  return product;
}

// What of both products is off, as a share of the sum of all absolute products: at most, and in the mean square.
struct ProductError {
  double largest = 0;
  double mean_square = 0;
};

ProductError error_of(const std::vector<float>& got, const Matrix& matrix, const std::vector<float>& x) {
  ProductError error;
  std::vector<float> row(static_cast<std::size_t>(matrix.columns));
  const std::size_t tokens = got.size() / static_cast<std::size_t>(matrix.rows);
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    dequantize_row(matrix.type, reinterpret_cast<const std::byte*>(&matrix.plain[static_cast<std::size_t>(r * matrix.row_size)]), matrix.columns, row.data());
    for (std::size_t t = 0; t < tokens; ++t) {
      double sum = 0, absolute = 0;
      for (std::size_t c = 0; c < row.size(); ++c) {
        const double product = static_cast<double>(row[c]) * x[t * row.size() + c];
        sum += product;
        absolute += std::abs(product);
      }
      const double off = (got[t * static_cast<std::size_t>(matrix.rows) + static_cast<std::size_t>(r)] - sum) / absolute;
      error.largest = std::max(error.largest, std::abs(off));
      error.mean_square += off * off / static_cast<double>(got.size());
    }
  }
  return error;
}

// Both factors are rounded to eight bits of mantissa, 2^-9 of a number at most: no product is off by more than that allows, and
// the mean square is below half of what rounding the inputs of single tokens to eight bits costs (a quarter is usual).
TEST(PackedProducts, PromptsAreOffByNoMoreThanRoundingToBfloat16) {
  Random random({8});
  for (const Kernels* kernels : available_kernels()) {
    if (kernels->prompt_matmul == nullptr) continue;
    EXPECT_EQ(kernels->prompt_matmul(GgmlType::kF16), nullptr);
    for (const GgmlType type : kPackedTypes) {
      const std::int64_t unit = type_info(type).block == 256 ? 256 : 64;
      for (const std::int64_t columns : {unit, 512 + unit, 2048 + 3 * unit}) {
        Matrix all(type, 65, columns);
        std::vector<float> row(static_cast<std::size_t>(columns));
        for (std::int64_t r = 0; r < all.rows; ++r) {
          for (float& value : row) value = static_cast<float>(random.normal());
          quantize_row(type, row.data(), columns, &all.plain[static_cast<std::size_t>(r * all.row_size)]);
        }
        for (const std::int64_t rows : {1, 15, 16, 17, 32, 33, 49, 65}) {
          Matrix matrix(type, rows, columns);
          std::copy_n(all.plain.begin(), matrix.plain.size(), matrix.plain.begin());
          matrix.pack();
          for (const std::int64_t tokens : {8, 16, 17, 33, 48}) {
            std::vector<float> x(static_cast<std::size_t>(tokens * columns));
            for (float& value : x) value = static_cast<float>(random.normal());
            const ProductError error = error_of(prompt_product(*kernels, matrix, x, tokens), matrix, x);
            const std::string where = fmt::format("{} {} {} x {}, {} tokens", kernels->name, type_info(type).name, rows, columns, tokens);
            EXPECT_LT(error.largest, std::ldexp(1.0, -8) + std::ldexp(1.0, -16)) << where;
            if (rows < 16) continue;
            const QuantizedInput inputs(scalar_kernels(), x, tokens, columns);
            std::vector<float> eight_bits(static_cast<std::size_t>(tokens * rows));
            matmul_for(scalar_kernels(), type)({matrix.plain.data(), matrix.row_size, rows}, inputs.input, eight_bits.data(), rows);
            EXPECT_LT(error.mean_square, error_of(eight_bits, matrix, x).mean_square / 2) << where;
          }
        }
      }
    }
  }
}

// With scales of one and inputs of scale one every float step is exact: only the integer products
// are left, over all levels and the extreme inputs, and must agree to the last bit.
TEST(PackedProducts, IntegerPartsAreExact) {
  Random random({4});
  const std::uint16_t one = float_to_half(1.0F);
  for (const GgmlType type : kPackedTypes) {
    Matrix matrix(type, 33, 512);
    for (std::uint8_t& byte : matrix.plain)
      byte = static_cast<std::uint8_t>(random.chance(0.3) ? (random.chance(0.5) ? 255 : 0)
                                                          : random.below(256));
    const auto block_bytes = static_cast<std::size_t>(type_info(type).bytes);
    for (std::size_t at = 0; at < matrix.plain.size(); at += block_bytes) {
      std::memcpy(&matrix.plain[at + (type == GgmlType::kQ6_K ? 208 : 0)], &one, 2);
      if (type == GgmlType::kQ4_1 || type == GgmlType::kQ4_K)
        std::memcpy(&matrix.plain[at + 2], &one, 2);
      // Scales of Q6_K that are small powers of two keep the sums below 2^24.
      if (type == GgmlType::kQ6_K) std::memset(&matrix.plain[at + 192], 2, 16);
    }
    matrix.pack();
    for (const std::int64_t tokens : {1, 3, 20, 40}) {
      std::vector<float> x(static_cast<std::size_t>(tokens * matrix.columns));
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = i % 32 == 0
                   ? 127.0F
                   : static_cast<float>(random.chance(0.2) ? -127 : random.between(-127, 127));
      }
      const QuantizedInput inputs(scalar_kernels(), x, tokens, matrix.columns, 3);
      compare(matrix, inputs.input, 0.0);
      // Levels and inputs of eight bits fit bfloat16, so prompts are exact, too: one level more would be seen. Times their scales of
      // six bits those of Q4_K do not.
      if (type == GgmlType::kQ4_K) continue;
      std::vector<float> want(static_cast<std::size_t>(tokens * matrix.rows));
      matmul_for(scalar_kernels(), type)({matrix.plain.data(), matrix.row_size, matrix.rows}, inputs.input, want.data(), matrix.rows);
      for (const Kernels* kernels : available_kernels()) {
        if (kernels->prompt_matmul == nullptr || tokens < kPromptTokens) continue;
        EXPECT_EQ(prompt_product(*kernels, matrix, x, tokens), want) << kernels->name << " " << type_info(type).name;
      }
    }
  }
}

// More rows and tokens than the kernel keeps sums of at a time, and a part of a tile beyond.
TEST(PackedProducts, LargePromptsAreExactForIntegers) {
  Random random({11});
  const std::uint16_t one = float_to_half(1.0F);
  Matrix matrix(GgmlType::kQ8_0, 273, 576);
  for (std::uint8_t& byte : matrix.plain) byte = static_cast<std::uint8_t>(random.below(256));
  for (std::size_t at = 0; at < matrix.plain.size(); at += 34) std::memcpy(&matrix.plain[at], &one, 2);
  matrix.pack();
  const std::int64_t tokens = 530;
  std::vector<float> x(static_cast<std::size_t>(tokens * matrix.columns));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 32 == 0 ? 127.0F : static_cast<float>(random.between(-127, 127));
  const QuantizedInput inputs(scalar_kernels(), x, tokens, matrix.columns, 0);
  std::vector<float> want(static_cast<std::size_t>(tokens * matrix.rows));
  matmul_for(scalar_kernels(), matrix.type)({matrix.plain.data(), matrix.row_size, matrix.rows}, inputs.input, want.data(), matrix.rows);
  int tables = 0;
  for (const Kernels* kernels : available_kernels()) {
    if (kernels->prompt_matmul == nullptr) continue;
    ++tables;
    EXPECT_EQ(prompt_product(*kernels, matrix, x, tokens), want) << kernels->name;
  }
  if (tables == 0) GTEST_SKIP() << "no AMX";
}

TEST(PackedProducts, OtherTypesAndRowLengthsHaveNone) {
  EXPECT_FALSE(can_pack(GgmlType::kF16, 256));
  EXPECT_FALSE(can_pack(GgmlType::kQ5_K, 256));
  EXPECT_FALSE(can_pack(GgmlType::kQ4_0, 96));
  EXPECT_TRUE(can_pack(GgmlType::kQ4_0, 128));
  EXPECT_EQ(packed_matmul_for(scalar_kernels(), GgmlType::kQ4_0, 128), nullptr);
}

TinyFiles quantized_model() {
  TinyModel model;
  model.wide = true;
  model.type = GgmlType::kQ4_K;
  return write_tiny_model(model);
}

std::vector<float> logits_of(const TinyFiles& files, const std::string& packed) {
  SessionOptions options;
  options.packed = packed;
  Session session(files.language, "", options);
  const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
  session.append(ids);
  return {session.logits().begin(), session.logits().end()};
}

bool packs_here() { return choose_kernels("auto").packed_matmul != nullptr; }

TEST(PackedWeights, AnswersAreThoseOfTheFileFormat) {
  const TinyFiles files = quantized_model();
  const std::vector<float> plain = logits_of(files, "none");
  const std::vector<float> memory = logits_of(files, "memory");
  EXPECT_FALSE(std::filesystem::exists(PackedWeights::path_of(files.language)));
  ASSERT_EQ(plain.size(), memory.size());
  // Sums in another order move some inputs of later layers to the next int8 level.
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    error += std::pow(static_cast<double>(memory[i] - plain[i]), 2);
    norm += std::pow(static_cast<double>(plain[i]), 2);
  }
  EXPECT_LT(std::sqrt(error / norm), 0.02);
  EXPECT_EQ(logits_of(files, "file"), memory);
}

TEST(PackedWeights, AreWrittenOnceAndReadFromThenOn) {
  if (!packs_here()) GTEST_SKIP() << "this processor's kernels read the file format";
  const TinyFiles files = quantized_model();
  const std::string path = PackedWeights::path_of(files.language);
  const std::vector<float> first = logits_of(files, "file");
  ASSERT_TRUE(std::filesystem::exists(path));
  const auto written = std::filesystem::last_write_time(path);
  EXPECT_EQ(logits_of(files, "file"), first);
  EXPECT_EQ(std::filesystem::last_write_time(path), written);
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(path).parent_path()))
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
}

TEST(PackedWeights, UnfinishedAndForeignFilesAreReplaced) {
  if (!packs_here()) GTEST_SKIP() << "this processor's kernels read the file format";
  const TinyFiles files = quantized_model();
  const std::string path = PackedWeights::path_of(files.language);
  const std::vector<float> first = logits_of(files, "file");
  const std::string good = read_file(path);
  std::string foreign = good;
  foreign[8] = static_cast<char>(foreign[8] + 1);  // another model's key
  for (const std::string& bad : {std::string(), good.substr(0, good.size() / 2), foreign}) {
    write_file_atomic(path, bad);
    EXPECT_EQ(logits_of(files, "file"), first);
    EXPECT_EQ(read_file(path), good);
  }
}

// The same name with other weights, as after a second export.
TEST(PackedWeights, FollowTheModel) {
  const TinyFiles files = quantized_model();
  logits_of(files, "file");
  TinyModel other;
  other.wide = true;
  other.type = GgmlType::kQ4_K;
  other.seed = 2;
  const TinyFiles others = write_tiny_model(other);
  std::filesystem::copy_file(
      others.language, files.language, std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(logits_of(files, "file"), logits_of(others, "memory"));
}

// A pair of files that was copied to a device: other times, the same bytes.
TEST(PackedWeights, KeepTogetherWithTheModelWhereverItIsCopied) {
  if (!packs_here()) GTEST_SKIP() << "this processor's kernels read the file format";
  namespace fs = std::filesystem;
  const TinyFiles files = quantized_model();
  const std::vector<float> first = logits_of(files, "file");
  const std::string folder = temporary_folder();
  const TinyFiles copied = {folder + "/other-name.gguf", ""};
  fs::copy_file(files.language, copied.language);
  fs::copy_file(PackedWeights::path_of(files.language), PackedWeights::path_of(copied.language));
  const auto now = fs::file_time_type::clock::now();
  fs::last_write_time(copied.language, now - std::chrono::hours(100));
  const auto written = now - std::chrono::hours(200);
  fs::last_write_time(PackedWeights::path_of(copied.language), written);
  EXPECT_EQ(logits_of(copied, "file"), first);
  EXPECT_EQ(fs::last_write_time(PackedWeights::path_of(copied.language)), written);
}

// The first and the last bytes of a tensor are among the samples.
TEST(PackedWeights, AChangeAtAnEndOfATensorIsSeen) {
  if (!packs_here()) GTEST_SKIP() << "this processor's kernels read the file format";
  for (const bool last : {false, true}) {
    const TinyFiles files = quantized_model();
    logits_of(files, "file");
    const std::string before = read_file(PackedWeights::path_of(files.language));
    std::string bytes = read_file(files.language);
    {
      const GgufFile file(files.language);
      const GgufTensor& tensor = file.tensor("blk.1.ffn_up.weight");
      const auto begin = static_cast<std::size_t>(tensor.bytes.data() - file.file().data());
      bytes[begin + (last ? tensor.bytes.size() - 1 : 8)] ^= 1;
    }
    write_file_atomic(files.language, bytes);
    EXPECT_EQ(logits_of(files, "file"), logits_of(files, "memory"));
    EXPECT_NE(read_file(PackedWeights::path_of(files.language)), before);
  }
}

TEST(PackedWeights, WithoutPlaceForTheFileMemoryServes) {
  const TinyFiles files = quantized_model();
  // A folder in the file's place can be neither read nor replaced.
  std::filesystem::create_directories(PackedWeights::path_of(files.language) + "/in the way");
  EXPECT_EQ(logits_of(files, "file"), logits_of(files, "memory"));
}

TEST(PackedWeights, UnknownPlacesAreRefused) {
  const TinyFiles files = quantized_model();
  EXPECT_THROW(logits_of(files, "cloud"), Error);
}

}  // namespace
}  // namespace pocketvlm
