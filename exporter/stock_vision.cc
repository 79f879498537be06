#include "exporter/stock_vision.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "data/preprocess/position_buckets.h"

namespace pocketvlm {
namespace {

/// For each row of the stock table along one axis the row of a table of `side` that stands there. Patches of a nominal slice
/// decide; rows that none of them reads go to the choice of most patches of slices from half to twice as long.
std::vector<std::int64_t> rows_behind(std::int64_t side, std::int64_t nominal) {
  std::vector<std::map<std::int64_t, std::int64_t>> votes(kStockPositionSide);
  for (std::int64_t count = std::max<std::int64_t>(1, nominal / 2); count <= 2 * nominal; ++count) {
    const std::vector<std::int64_t> rows = position_buckets(count, side);
    const std::int64_t weight = count == nominal ? 1000 : 1;
    for (std::int64_t i = 0; i < count; ++i) {
      votes[static_cast<std::size_t>(kStockPositionSide * i / count)][rows[static_cast<std::size_t>(i)]] += weight;
    }
  }
  std::vector<std::int64_t> behind;
  for (std::int64_t place = 0; place < kStockPositionSide; ++place) {
    const auto& choices = votes[static_cast<std::size_t>(place)];
    const auto most = std::max_element(choices.begin(), choices.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    behind.push_back(most == choices.end() ? side * place / kStockPositionSide : most->first);
  }
  return behind;
}

double dot(const float* a, const float* b, std::size_t count) {
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// LayerNorm of one row, plus `added`.
std::vector<float> normed(const float* row, const StockQueries& own, const float* added, double eps) {
  const std::size_t hidden = own.bias.size();
  double mean = 0.0, square = 0.0;
  for (std::size_t i = 0; i < hidden; ++i) mean += static_cast<double>(row[i]) / static_cast<double>(hidden);
  for (std::size_t i = 0; i < hidden; ++i) square += std::pow(static_cast<double>(row[i]) - mean, 2) / static_cast<double>(hidden);
  std::vector<float> out(hidden);
  for (std::size_t i = 0; i < hidden; ++i) {
    const double scaled = (static_cast<double>(row[i]) - mean) / std::sqrt(square + eps);
    out[i] = static_cast<float>(scaled * static_cast<double>(own.norm_weight[i]) + static_cast<double>(own.norm_bias[i])) + added[i];
  }
  return out;
}

}  // namespace

bool needs_stock_positions(const ModelConfig& config) {
  return config.projector.kind == "resampler" &&
         (config.vision.positions != "bucketed" || config.vision.position_side != kStockPositionSide);
}

std::vector<float> stock_position_table(const std::vector<float>& table, std::int64_t side, std::int64_t hidden, std::int64_t nominal) {
  PV_CHECK(static_cast<std::int64_t>(table.size()) == side * side * hidden, "export: the position table has {} values, not {} x {} x {}",
           table.size(), side, side, hidden);
  const std::vector<std::int64_t> behind = rows_behind(side, nominal);
  std::vector<float> stock;
  stock.reserve(static_cast<std::size_t>(kStockPositionSide * kStockPositionSide * hidden));
  for (const std::int64_t down : behind) {
    for (const std::int64_t across : behind) {
      const auto row = table.begin() + (down * side + across) * hidden;
      stock.insert(stock.end(), row, row + hidden);
    }
  }
  return stock;
}

StockQueries stock_queries(const StockQueries& own, const std::vector<float>& positions, double norm_eps) {
  const std::size_t hidden = own.bias.size(), queries = own.query.size() / hidden;
  PV_CHECK(2 * queries <= hidden, "export: {} queries do not fit into {} channels for llama.cpp", queries, hidden);
  // x and -x in two channels of a row: mean 0, and variance 1 for this x, up to the epsilon that the norm's weight takes out.
  const auto x = static_cast<float>(std::sqrt(static_cast<double>(hidden) / 2.0));
  StockQueries stock;
  stock.query.assign(own.query.size(), 0.0F);
  stock.norm_weight.assign(hidden, static_cast<float>(std::sqrt(1.0 + norm_eps)));
  stock.norm_bias.assign(hidden, 0.0F);
  stock.weight.assign(hidden * hidden, 0.0F);
  stock.bias.assign(hidden, 0.0F);
  for (std::size_t q = 0; q < queries; ++q) {
    stock.query[q * hidden + q] = x;
    stock.query[q * hidden + queries + q] = -x;
    const std::vector<float> row = normed(&own.query[q * hidden], own, &positions[q * hidden], norm_eps);
    for (std::size_t o = 0; o < hidden; ++o) {
      const double seen = dot(&own.weight[o * hidden], row.data(), hidden) + static_cast<double>(own.bias[o]);
      stock.weight[o * hidden + q] = static_cast<float>(seen / static_cast<double>(x));
    }
  }
  return stock;
}

std::vector<std::string> llama_cpp_differences(const ModelConfig& config) {
  std::vector<std::string> out;
  const VisionConfig& vision = config.vision;
  const ProjectorConfig& projector = config.projector;
  if (vision.activation == "gelu_erf") out.push_back("GELU of the vision encoder is the tanh form instead of erf");
  if (projector.kind == "resampler") {
    if (projector.num_heads * 128 != config.language.hidden) {
      out.push_back(fmt::format("attention of the resampler is computed in heads of 128 channels instead of {}",
                                config.language.hidden / projector.num_heads));
    }
    if (projector.positions == "interpolated") out.push_back("keys of the resampler get 2-D sines instead of an interpolated 8 x 8 table");
    if (projector.positions != "key" && 2 * projector.num_queries > config.language.hidden) {
      out.push_back("queries of the resampler get no positions");
    }
    if (vision.strip_quirk && config.compat == "released") out.push_back("position table read in two dimensions instead of along strips");
    if (needs_stock_positions(config)) {
      out.push_back(fmt::format("position table fitted to slices of {0} x {0} patches; others read neighbouring rows",
                                config.image.scale_resolution / config.image.patch_size));
    }
    if (config.image.mode == "slices") {
      out.push_back("small and elongated pictures are sliced by another rule, and slices are padded with black instead of stretched");
      if (config.image.max_slices != 9) out.push_back(fmt::format("up to 9 slices instead of {}", config.image.max_slices));
    }
    if (config.prompt.use_image_id) out.push_back("no <image_id> tokens before a picture");
  } else {
    out.push_back("GELU of the projector is the tanh form instead of erf");
    if (vision.class_token) out.push_back("class token stands last, so positions are shifted by one and it takes the place of the first patch");
    if (projector.kind != "mlp" && vision.position_side != 24) out.push_back("projectors ldp and ldpv2 work on 24 x 24 patches only: do not run this file there");
  }
  if (std::abs(projector.norm_eps - vision.norm_eps) > 1e-12) out.push_back("norms of the projector use the vision encoder's epsilon");
  return out;
}

}  // namespace pocketvlm
