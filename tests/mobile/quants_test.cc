#include "mobile/quants.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "base/random.h"

namespace pocketvlm {
namespace {

std::vector<std::uint8_t> from_hex(const std::string& text) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::vector<float> floats_of(const std::vector<std::uint8_t>& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

const std::vector<GgmlType> kBlockTypes = {GgmlType::kQ8_0,
                                           GgmlType::kQ4_0,
                                           GgmlType::kQ4_1,
                                           GgmlType::kQ5_0,
                                           GgmlType::kQ5_1,
                                           GgmlType::kQ4_K,
                                           GgmlType::kQ5_K,
                                           GgmlType::kQ6_K};

class GoldenBlocks : public ::testing::TestWithParam<std::string> {
 protected:
  Json golden_ = read_json(TEST_DATA "/mobile/quants_golden.json");
  std::vector<float> source_ = floats_of(from_hex(golden_["source"].get<std::string>()));
  std::int64_t columns_ = golden_["columns"].get<std::int64_t>();
  std::int64_t rows_ = golden_["rows"].get<std::int64_t>();
  GgmlType type_ = *parse_ggml_type(GetParam());
  std::vector<std::uint8_t> blocks_ =
      from_hex(golden_["types"][GetParam()]["blocks"].get<std::string>());
  std::vector<float> values_ =
      floats_of(from_hex(golden_["types"][GetParam()]["values"].get<std::string>()));

  std::vector<std::uint8_t> quantized(const std::vector<float>& source) const {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(rows_ * row_bytes(type_, columns_)));
    for (std::int64_t r = 0; r < rows_; ++r) {
      quantize_row(type_,
                   &source[static_cast<std::size_t>(r * columns_)],
                   columns_,
                   &out[static_cast<std::size_t>(r * row_bytes(type_, columns_))]);
    }
    return out;
  }
};

TEST_P(GoldenBlocks, QuantizeGivesTheReferenceBytes) { EXPECT_EQ(quantized(source_), blocks_); }

TEST_P(GoldenBlocks, QuantizeChangesWithOneValue) {
  source_[3] = source_[3] * 2.0F + 1.0F;
  EXPECT_NE(quantized(source_), blocks_);
}

TEST_P(GoldenBlocks, DequantizeGivesTheReferenceValues) {
  std::vector<float> out(values_.size());
  for (std::int64_t r = 0; r < rows_; ++r) {
    dequantize_row(type_,
                   &blocks_[static_cast<std::size_t>(r * row_bytes(type_, columns_))],
                   columns_,
                   &out[static_cast<std::size_t>(r * columns_)]);
  }
  EXPECT_EQ(out, values_);
}

INSTANTIATE_TEST_SUITE_P(
    Types,
    GoldenBlocks,
    ::testing::Values(
        "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"));

TEST(Quants, EveryHalfSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      EXPECT_EQ(float_to_half(value), half) << bits;
    }
  }
}

TEST(Quants, HalvesRoundToEven) {
  EXPECT_EQ(float_to_half(1.0F + 0x1p-11F), 0x3C00);      // halfway, even below
  EXPECT_EQ(float_to_half(1.0F + 3 * 0x1p-11F), 0x3C02);  // halfway, even above
  EXPECT_EQ(float_to_half(std::nextafter(1.0F + 0x1p-11F, 2.0F)), 0x3C01);
  EXPECT_EQ(float_to_half(65519.996F), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_half(0x1p-25F), 0x0000);
  EXPECT_EQ(float_to_half(1.5F * 0x1p-24F), 0x0002);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(1.0F + 3 * 0x1p-8F), 0x3F82);
}

// Largest distance between a value and the grid of its own block, in steps of that grid.
TEST(Quants, ErrorsStayWithinTheStep) {
  Random random({7});
  for (const GgmlType type : kBlockTypes) {
    for (int trial = 0; trial < 50; ++trial) {
      std::vector<float> x(256);
      for (float& value : x) value = static_cast<float>(random.normal());
      std::vector<std::uint8_t> blocks(static_cast<std::size_t>(row_bytes(type, 256)));
      std::vector<float> back(256);
      quantize_row(type, x.data(), 256, blocks.data());
      dequantize_row(type, blocks.data(), 256, back.data());
      double error = 0.0;
      double energy = 0.0;
      for (std::size_t i = 0; i < 256; ++i) {
        error += std::pow(static_cast<double>(x[i] - back[i]), 2);
        energy += std::pow(static_cast<double>(x[i]), 2);
      }
      const int bits =
          type == GgmlType::kQ8_0                                                         ? 8
          : type == GgmlType::kQ6_K                                                       ? 6
          : type == GgmlType::kQ5_0 || type == GgmlType::kQ5_1 || type == GgmlType::kQ5_K ? 5
                                                                                          : 4;
      // A uniform grid of 2^bits steps over about +-2.7 sigma: rms error step / sqrt(12).
      const double step = 2.0 * 2.7 / std::pow(2.0, bits);
      EXPECT_LT(std::sqrt(error / energy), 1.1 * step / std::sqrt(12.0)) << type_info(type).name;
    }
  }
}

TEST(Quants, Q8ErrorsStayWithinHalfAStep) {
  Random random({8});
  std::vector<float> x(32 * 100);
  for (float& value : x) value = static_cast<float>(random.normal());
  std::vector<std::uint8_t> blocks(static_cast<std::size_t>(row_bytes(GgmlType::kQ8_0, 3200)));
  std::vector<float> back(3200);
  quantize_row(GgmlType::kQ8_0, x.data(), 3200, blocks.data());
  dequantize_row(GgmlType::kQ8_0, blocks.data(), 3200, back.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::uint16_t scale;
    std::memcpy(&scale, &blocks[i / 32 * 34], 2);
    const float d = half_to_float(scale);
    EXPECT_LE(std::fabs(x[i] - back[i]),
              0.5F * d + 127.0F * d * 0x1p-11F);  // the stored scale is rounded
  }
}

TEST(Quants, QuantizingAgainChangesNothing) {
  Random random({9});
  for (const GgmlType type : {GgmlType::kQ8_0, GgmlType::kQ4_0, GgmlType::kQ5_0}) {
    std::vector<float> x(256);
    for (float& value : x) value = static_cast<float>(random.normal());
    const auto size = static_cast<std::size_t>(row_bytes(type, 256));
    std::vector<std::uint8_t> once(size);
    std::vector<std::uint8_t> again(size);
    quantize_row(type, x.data(), 256, once.data());
    dequantize_row(type, once.data(), 256, x.data());
    quantize_row(type, x.data(), 256, again.data());
    EXPECT_EQ(once, again) << type_info(type).name;
  }
}

TEST(Quants, ImportanceLessensTheWeightedError) {
  Random random({10});
  for (const GgmlType type :
       {GgmlType::kQ4_0, GgmlType::kQ5_0, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K}) {
    double plain_total = 0.0;
    double weighted_total = 0.0;
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> x(256);
      std::vector<float> importance(256);
      for (std::size_t i = 0; i < 256; ++i) {
        x[i] = static_cast<float>(random.normal());
        importance[i] = static_cast<float>(std::exp(2.0 * random.normal()));
      }
      const auto error = [&](const float* weights) {
        std::vector<std::uint8_t> blocks(static_cast<std::size_t>(row_bytes(type, 256)));
        std::vector<float> back(256);
        quantize_row(type, x.data(), 256, blocks.data(), weights);
        dequantize_row(type, blocks.data(), 256, back.data());
        double total = 0.0;
        for (std::size_t i = 0; i < 256; ++i)
          total += importance[i] * std::pow(static_cast<double>(x[i] - back[i]), 2);
        return total;
      };
      plain_total += error(nullptr);
      weighted_total += error(importance.data());
    }
    EXPECT_LT(weighted_total, plain_total) << type_info(type).name;
  }
}

TEST(Quants, RowsThatAreNotWholeBlocksAreRefused) {
  EXPECT_THROW(row_bytes(GgmlType::kQ4_K, 128), Error);
  EXPECT_THROW(row_bytes(GgmlType::kQ8_0, 33), Error);
  float x[32] = {};
  std::uint8_t out[64];
  EXPECT_THROW(quantize_row(GgmlType::kQ3_K, x, 0, out), Error);
  EXPECT_THROW(dequantize_row(GgmlType::kI32, out, 4, x), Error);
}

TEST(Quants, TypeNamesAreReadInAnyCase) {
  EXPECT_EQ(parse_ggml_type("q4_k"), GgmlType::kQ4_K);
  EXPECT_EQ(parse_ggml_type("BF16"), GgmlType::kBF16);
  EXPECT_FALSE(parse_ggml_type("q9").has_value());
}

}  // namespace
}  // namespace pocketvlm
