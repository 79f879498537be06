#include "exporter/tensor_types.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace pocketvlm {
namespace {

/// llama.cpp's choice for a model of 24 layers, as the format's fact sheet records it.
TEST(TypePlan, Q4KMKeepsTheLayersThatLlamaCppKeeps) {
  const TypePlan plan("q4_k_m", 24);
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < 24; ++i) {
    if (plan.type_of(MatrixRole::kFeedForwardDown, i) == GgmlType::kQ6_K) kept.push_back(i);
    EXPECT_EQ(plan.type_of(MatrixRole::kOther, i), GgmlType::kQ4_K);
  }
  EXPECT_EQ(kept, (std::vector<std::int64_t>{0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23}));
  EXPECT_EQ(plan.type_of(MatrixRole::kOutput, 0), GgmlType::kQ6_K);
  EXPECT_EQ(plan.type_of(MatrixRole::kEmbedding, 0), GgmlType::kQ4_K);
}

TEST(TypePlan, RowsThatNoBlockDividesFallBack) {
  EXPECT_EQ(fitting_type(GgmlType::kQ4_K, 5632), GgmlType::kQ4_K);
  EXPECT_EQ(fitting_type(GgmlType::kQ4_K, 5760), GgmlType::kQ5_0);
  EXPECT_EQ(fitting_type(GgmlType::kQ6_K, 5760), GgmlType::kQ8_0);
  EXPECT_EQ(fitting_type(GgmlType::kQ8_0, 4304), GgmlType::kF16);
}

TEST(TypePlan, UnknownTypesAreNamed) { EXPECT_THROW(TypePlan("q4_k", 4), Error); }

}  // namespace
}  // namespace pocketvlm
