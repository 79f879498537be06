#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

/// Stock llama.cpp (libmtmd) computes MiniCPM-V's vision side in one way, that of 2.5 and 2.6. Where another model of the family
/// computes something else, these functions rewrite its weights so that the stock graph gives the same; what cannot be rewritten
/// is listed by name. Facts: llama.cpp's tools/mtmd, models/minicpmv.cpp, models/llava.cpp and clip.cpp of release 0.5.0.
namespace pocketvlm {

/// Side of the position table in which libmtmd looks: patch i of n reads row floor(70 i / n).
inline constexpr std::int64_t kStockPositionSide = 70;

/// Whether libmtmd would read other rows of this model's table than the model does.
bool needs_stock_positions(const ModelConfig& config);

/// The table for libmtmd, [70 * 70, hidden]: exact for a slice of `nominal` x `nominal` patches (for every slice whose sides are so
/// long or divide so evenly), the nearest row elsewhere.
///   table  [side * side, hidden], no class token
std::vector<float> stock_position_table(const std::vector<float>& table, std::int64_t side, std::int64_t hidden, std::int64_t nominal);

/// Learned queries of a resampler, as the stock graph takes them: norm, then a linear layer, and nothing in between.
struct StockQueries {
  std::vector<float> query;        // [queries, hidden]
  std::vector<float> norm_weight;  // [hidden]
  std::vector<float> norm_bias;    // [hidden]
  std::vector<float> weight;       // [hidden, hidden]
  std::vector<float> bias;         // [hidden]
};

/// Queries for models that add positions to them (2.0). The attention only ever sees weight (norm(query) + positions) + bias,
/// one row a query; so other queries that the norm leaves alone, one pair of channels each, and a weight whose columns are
/// those rows give the same. Needs 2 * queries <= hidden.
///   positions  [queries, hidden]
StockQueries stock_queries(const StockQueries& own, const std::vector<float>& positions, double norm_eps);

/// What stock llama.cpp computes differently for this model all the same, a sentence each; docs/phone.md says how much it matters.
std::vector<std::string> llama_cpp_differences(const ModelConfig& config);

}  // namespace pocketvlm
