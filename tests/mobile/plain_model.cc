#include "tests/mobile/plain_model.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

PlainMatrix read_matrix(const GgufFile& file, const std::string& name, std::int64_t columns = 0) {
  const GgufTensor& tensor = file.tensor(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  const std::int64_t bytes = row_bytes(tensor.type, tensor.row_length());
  for (std::int64_t r = 0; r < tensor.num_rows(); ++r) {
    dequantize_row(tensor.type,
                   tensor.bytes.data() + r * bytes,
                   tensor.row_length(),
                   &values[static_cast<std::size_t>(r * tensor.row_length())]);
  }
  if (columns == 0) columns = tensor.row_length();
  PlainMatrix matrix(tensor.num_elements() / columns, columns);
  std::copy(values.begin(), values.end(), matrix.data.begin());
  return matrix;
}

// y = x W^T + b, the bias where the file has one.
PlainMatrix linear(const GgufFile& file, const std::string& name, const PlainMatrix& x) {
  const PlainMatrix w = read_matrix(file, name + ".weight", x.columns);
  PlainMatrix y(x.rows, w.rows);
  const bool has_bias = file.find(name + ".bias") != nullptr;
  const PlainMatrix bias = has_bias ? read_matrix(file, name + ".bias") : PlainMatrix(1, w.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t r = 0; r < w.rows; ++r) {
      double sum = bias.data[static_cast<std::size_t>(r)];
      for (std::int64_t i = 0; i < x.columns; ++i) sum += x.at(t, i) * w.at(r, i);
      y.at(t, r) = sum;
    }
  }
  return y;
}

PlainMatrix layer_norm(const GgufFile& file, const std::string& name, PlainMatrix x, double eps) {
  const PlainMatrix w = read_matrix(file, name + ".weight");
  const PlainMatrix b = read_matrix(file, name + ".bias");
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double mean = 0.0;
    double variance = 0.0;
    for (std::int64_t i = 0; i < x.columns; ++i)
      mean += x.at(t, i) / static_cast<double>(x.columns);
    for (std::int64_t i = 0; i < x.columns; ++i)
      variance += std::pow(x.at(t, i) - mean, 2) / static_cast<double>(x.columns);
    for (std::int64_t i = 0; i < x.columns; ++i) {
      x.at(t, i) = (x.at(t, i) - mean) / std::sqrt(variance + eps) * w.at(0, i) + b.at(0, i);
    }
  }
  return x;
}

PlainMatrix rms_norm(const GgufFile& file, const std::string& name, PlainMatrix x, double eps) {
  const PlainMatrix w = read_matrix(file, name + ".weight");
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double squares = 0.0;
    for (std::int64_t i = 0; i < x.columns; ++i)
      squares += x.at(t, i) * x.at(t, i) / static_cast<double>(x.columns);
    for (std::int64_t i = 0; i < x.columns; ++i)
      x.at(t, i) *= w.at(0, i) / std::sqrt(squares + eps);
  }
  return x;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double activate(const std::string& name, double x) {
  if (name == "gelu_erf") return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  if (name == "quick_gelu") return x * sigmoid(1.702 * x);
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

// Queries [first_q, +nq) see keys [first_k, +nk), with `causal` only those not later than
// themselves.
void attend(const PlainMatrix& q,
            const PlainMatrix& k,
            const PlainMatrix& v,
            std::int64_t heads,
            std::int64_t kv_heads,
            std::array<std::int64_t, 4> span,
            bool causal,
            PlainMatrix& out) {
  const auto [first_q, nq, first_k, nk] = span;
  const std::int64_t dim = q.columns / heads;
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t kv = h / (heads / kv_heads);
    for (std::int64_t t = first_q; t < first_q + nq; ++t) {
      const std::int64_t end = causal ? t + 1 : first_k + nk;
      std::vector<double> p;
      double total = 0.0;
      for (std::int64_t s = first_k; s < end; ++s) {
        double score = 0.0;
        for (std::int64_t i = 0; i < dim; ++i)
          score += q.at(t, h * dim + i) * k.at(s, kv * dim + i);
        p.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        total += p.back();
      }
      for (std::int64_t s = first_k; s < end; ++s) {
        for (std::int64_t i = 0; i < dim; ++i) {
          out.at(t, h * dim + i) +=
              p[static_cast<std::size_t>(s - first_k)] / total * v.at(s, kv * dim + i);
        }
      }
    }
  }
}

double sincos(double row, double column, std::int64_t channel, std::int64_t hidden) {
  const std::int64_t quarter = hidden / 4;
  const double place = channel < hidden / 2 ? column : row;
  const std::int64_t i = channel % (hidden / 2);
  const double angle =
      place * std::pow(10000.0, -static_cast<double>(i % quarter) / static_cast<double>(quarter));
  return i < quarter ? std::sin(angle) : std::cos(angle);
}

double cubic(double x, double a) {
  x = std::fabs(x);
  if (x < 1.0) return (a + 2.0) * x * x * x - (a + 3.0) * x * x + 1.0;
  if (x < 2.0) return a * x * x * x - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a;
  return 0.0;
}

// Weights of all `side` table places for place o of n: antialiased (a = -0.5) or plain with
// repeated edges (a = -0.75).
std::vector<double> bicubic_weights(std::int64_t side,
                                    std::int64_t n,
                                    std::int64_t o,
                                    bool antialias) {
  std::vector<double> weights(static_cast<std::size_t>(side), 0.0);
  const double scale = static_cast<double>(side) / static_cast<double>(n);
  const double centre = (static_cast<double>(o) + 0.5) * scale;
  if (antialias) {
    const double stretch = std::max(1.0, scale);
    double total = 0.0;
    for (std::int64_t i = 0; i < side; ++i) {
      weights[static_cast<std::size_t>(i)] =
          cubic((static_cast<double>(i) + 0.5 - centre) / stretch, -0.5);
      total += weights[static_cast<std::size_t>(i)];
    }
    for (double& w : weights) w /= total;
  } else {
    for (std::int64_t i = -2; i < side + 2; ++i) {
      const auto at = static_cast<std::size_t>(std::clamp<std::int64_t>(i, 0, side - 1));
      weights[at] += cubic(static_cast<double>(i) + 0.5 - centre, -0.75);
    }
  }
  return weights;
}

}  // namespace

PlainMatrix plain_vision(const GgufFile& file, const EncodedChat& prompt) {
  const std::int64_t hidden = file.get_int("clip.vision.embedding_length");
  const std::int64_t heads = file.get_int("clip.vision.attention.head_count");
  const double eps = file.get_float("clip.vision.attention.layer_norm_epsilon");
  const std::string positions = file.get_string("pocketvlm.vision.positions");
  const std::string activation = file.get_string("pocketvlm.vision.activation");
  const bool with_class = file.find("v.class_embd") != nullptr;
  const PlainMatrix table = read_matrix(file, "v.position_embd.weight");
  const std::int64_t first = with_class ? 1 : 0;
  const auto side =
      static_cast<std::int64_t>(std::sqrt(static_cast<double>(table.rows - first)) + 0.5);

  const std::int64_t patch_values =
      3 * file.get_int("clip.vision.patch_size") * file.get_int("clip.vision.patch_size");
  PlainMatrix pixels(static_cast<std::int64_t>(prompt.patches.size()) / patch_values, patch_values);
  std::copy(prompt.patches.begin(), prompt.patches.end(), pixels.data.begin());
  const PlainMatrix embedded = linear(file, "v.patch_embd", pixels);

  std::int64_t rows_total = 0;
  for (const auto& grid : prompt.grids) rows_total += std::int64_t{grid[0]} * grid[1] + first;
  PlainMatrix x(rows_total, hidden);
  std::int64_t t = 0;
  std::int64_t source = 0;
  for (const auto& [rows, columns] : prompt.grids) {
    for (std::int64_t h = 0; with_class && h < hidden; ++h)
      x.at(t, h) = read_matrix(file, "v.class_embd").at(0, h) + table.at(0, h);
    t += first;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c, ++t, ++source) {
        const std::vector<double> down = bicubic_weights(side, rows, r, true);
        const std::vector<double> across = bicubic_weights(side, columns, c, true);
        for (std::int64_t h = 0; h < hidden; ++h) {
          double position = 0.0;
          if (positions == "interpolated") {
            for (std::int64_t i = 0; i < side; ++i) {
              for (std::int64_t j = 0; j < side; ++j) {
                position += down[static_cast<std::size_t>(i)] *
                            across[static_cast<std::size_t>(j)] * table.at(first + i * side + j, h);
              }
            }
          } else {
            position = table.at(first + side * r / rows * side + side * c / columns, h);
          }
          x.at(t, h) = embedded.at(source, h) + position;
        }
      }
    }
  }
  if (file.find("v.pre_ln.weight") != nullptr) x = layer_norm(file, "v.pre_ln", x, eps);
  for (std::int64_t b = 0; b < file.get_int("clip.vision.block_count"); ++b) {
    const std::string p = fmt::format("v.blk.{}.", b);
    const PlainMatrix n = layer_norm(file, p + "ln1", x, eps);
    const PlainMatrix q = linear(file, p + "attn_q", n);
    const PlainMatrix k = linear(file, p + "attn_k", n);
    const PlainMatrix v = linear(file, p + "attn_v", n);
    PlainMatrix mixed(x.rows, hidden);
    std::int64_t begin = 0;
    for (const auto& grid : prompt.grids) {
      const std::int64_t count = std::int64_t{grid[0]} * grid[1] + first;
      attend(q, k, v, heads, heads, {begin, count, begin, count}, false, mixed);
      begin += count;
    }
    const PlainMatrix out = linear(file, p + "attn_out", mixed);
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += out.data[i];
    PlainMatrix wide = linear(file, p + "ffn_up", layer_norm(file, p + "ln2", x, eps));
    for (double& value : wide.data) value = activate(activation, value);
    const PlainMatrix narrow = linear(file, p + "ffn_down", wide);
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += narrow.data[i];
  }
  if (file.find("v.post_ln.weight") != nullptr) x = layer_norm(file, "v.post_ln", x, eps);
  PlainMatrix features(embedded.rows, hidden);
  t = 0;
  source = 0;
  for (const auto& grid : prompt.grids) {
    t += first;
    for (std::int64_t i = 0; i < std::int64_t{grid[0]} * grid[1]; ++i, ++t, ++source) {
      for (std::int64_t h = 0; h < hidden; ++h) features.at(source, h) = x.at(t, h);
    }
  }
  return features;
}

namespace {

PlainMatrix plain_resampler(const GgufFile& file,
                            const PlainMatrix& features,
                            const std::vector<std::array<int, 2>>& grids) {
  const double eps = file.get_float("clip.vision.attention.layer_norm_epsilon");
  const std::int64_t heads = file.get_int("pocketvlm.projector.heads");
  const std::string positions = file.get_string("pocketvlm.projector.positions");
  PlainMatrix query = layer_norm(file, "resampler.ln_q", read_matrix(file, "resampler.query"), eps);
  const std::int64_t queries = query.rows;
  const std::int64_t hidden = query.columns;
  const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(queries)) + 0.5);
  for (std::int64_t i = 0; positions != "key" && i < queries; ++i) {
    for (std::int64_t h = 0; h < hidden; ++h) {
      query.at(i, h) +=
          sincos(static_cast<double>(i / side), static_cast<double>(i % side), h, hidden);
    }
  }
  const PlainMatrix one = linear(file, "resampler.attn.q", query);
  const PlainMatrix values =
      layer_norm(file, "resampler.ln_kv", linear(file, "resampler.kv", features), eps);
  PlainMatrix keys = values;
  std::int64_t t = 0;
  for (const auto& [rows, columns] : grids) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c, ++t) {
        const std::vector<double> down = bicubic_weights(side, rows, r, false);
        const std::vector<double> across = bicubic_weights(side, columns, c, false);
        for (std::int64_t h = 0; h < hidden; ++h) {
          if (positions != "interpolated") {
            keys.at(t, h) += sincos(static_cast<double>(r), static_cast<double>(c), h, hidden);
            continue;
          }
          for (std::int64_t i = 0; i < queries; ++i) {
            keys.at(t, h) +=
                down[static_cast<std::size_t>(i / side)] *
                across[static_cast<std::size_t>(i % side)] *
                sincos(static_cast<double>(i / side), static_cast<double>(i % side), h, hidden);
          }
        }
      }
    }
  }
  const PlainMatrix k = linear(file, "resampler.attn.k", keys);
  const PlainMatrix v = linear(file, "resampler.attn.v", values);
  const auto slices = static_cast<std::int64_t>(grids.size());
  PlainMatrix q(slices * queries, hidden);
  for (std::int64_t i = 0; i < q.rows; ++i) {
    for (std::int64_t h = 0; h < hidden; ++h) q.at(i, h) = one.at(i % queries, h);
  }
  PlainMatrix mixed(q.rows, hidden);
  std::int64_t begin = 0;
  for (std::int64_t s = 0; s < slices; ++s) {
    const auto& grid = grids[static_cast<std::size_t>(s)];
    const std::int64_t count = std::int64_t{grid[0]} * grid[1];
    attend(q, k, v, heads, heads, {s * queries, queries, begin, count}, false, mixed);
    begin += count;
  }
  return linear(
      file,
      "resampler.proj",
      layer_norm(file, "resampler.ln_post", linear(file, "resampler.attn.out", mixed), eps));
}

PlainMatrix plain_depthwise(const PlainMatrix& x,
                            std::int64_t rows,
                            std::int64_t columns,
                            std::int64_t stride,
                            const PlainMatrix& w) {
  const std::int64_t out_rows = (rows + stride - 1) / stride;
  const std::int64_t out_columns = (columns + stride - 1) / stride;
  PlainMatrix y(out_rows * out_columns, x.columns);
  for (std::int64_t r = 0; r < out_rows; ++r) {
    for (std::int64_t c = 0; c < out_columns; ++c) {
      for (std::int64_t h = 0; h < x.columns; ++h) {
        for (std::int64_t i = -1; i <= 1; ++i) {
          for (std::int64_t j = -1; j <= 1; ++j) {
            const std::int64_t a = r * stride + i;
            const std::int64_t b = c * stride + j;
            if (a < 0 || b < 0 || a >= rows || b >= columns) continue;
            y.at(r * out_columns + c, h) += w.at(h, 3 * (i + 1) + j + 1) * x.at(a * columns + b, h);
          }
        }
      }
    }
  }
  return y;
}

double hard_sigmoid(double x) { return std::clamp(x / 6.0 + 0.5, 0.0, 1.0); }

PlainMatrix plain_inverted(const GgufFile& file,
                           const std::string& p,
                           const PlainMatrix& x,
                           std::int64_t side,
                           std::int64_t stride) {
  const double eps = file.get_float("clip.vision.attention.layer_norm_epsilon");
  PlainMatrix y =
      layer_norm(file,
                 p + "0.1",
                 plain_depthwise(x, side, side, stride, read_matrix(file, p + "0.0.weight", 9)),
                 eps);
  PlainMatrix mean(1, y.columns);
  for (std::int64_t t = 0; t < y.rows; ++t) {
    for (std::int64_t h = 0; h < y.columns; ++h) {
      y.at(t, h) *= hard_sigmoid(y.at(t, h));
      mean.at(0, h) += y.at(t, h) / static_cast<double>(y.rows);
    }
  }
  PlainMatrix squeezed = linear(file, p + "1.fc1", mean);
  for (double& v : squeezed.data) v = std::max(v, 0.0);
  const PlainMatrix gate = linear(file, p + "1.fc2", squeezed);
  for (std::int64_t t = 0; t < y.rows; ++t) {
    for (std::int64_t h = 0; h < y.columns; ++h) y.at(t, h) *= hard_sigmoid(gate.at(0, h));
  }
  return layer_norm(file, p + "2.1", linear(file, p + "2.0", y), eps);
}

}  // namespace

PlainMatrix plain_projector(const GgufFile& file,
                            const PlainMatrix& features,
                            const std::vector<std::array<int, 2>>& grids) {
  const std::string kind = file.get_string("clip.projector_type");
  if (kind == "resampler") return plain_resampler(file, features, grids);
  const std::string first = kind == "mlp"   ? "mm.0"
                            : kind == "ldp" ? "mm.model.mlp.1"
                                            : "mm.model.mlp.0";
  const std::string second = kind == "mlp"   ? "mm.2"
                             : kind == "ldp" ? "mm.model.mlp.3"
                                             : "mm.model.mlp.2";
  PlainMatrix wide = linear(file, first, features);
  for (double& value : wide.data)
    value = activate(file.get_string("pocketvlm.projector.activation"), value);
  const PlainMatrix x = linear(file, second, wide);
  if (kind == "mlp") return x;
  const std::int64_t side = grids[0][0];  // one slice, square
  if (kind == "ldp") {
    PlainMatrix y = plain_inverted(file, "mm.model.mb_block.1.block.", x, side, 1);
    for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] += x.data[i];
    return plain_inverted(file, "mm.model.mb_block.2.block.", y, side, 2);
  }
  PlainMatrix pooled(side * side / 4, x.columns);
  for (std::int64_t r = 0; r < side; ++r) {
    for (std::int64_t c = 0; c < side; ++c) {
      for (std::int64_t h = 0; h < x.columns; ++h)
        pooled.at(r / 2 * (side / 2) + c / 2, h) += x.at(r * side + c, h) / 4.0;
    }
  }
  PlainMatrix y =
      plain_depthwise(pooled, side / 2, side / 2, 1, read_matrix(file, "mm.model.peg.0.weight", 9));
  const PlainMatrix bias = read_matrix(file, "mm.model.peg.0.bias");
  for (std::int64_t t = 0; t < y.rows; ++t) {
    for (std::int64_t h = 0; h < y.columns; ++h) y.at(t, h) += pooled.at(t, h) + bias.at(0, h);
  }
  return y;
}

PlainMatrix plain_language(const GgufFile& file,
                           const EncodedChat& prompt,
                           const PlainMatrix& visual) {
  const std::string a = file.get_string("general.architecture");
  const std::int64_t heads = file.get_int(a + ".attention.head_count");
  const std::int64_t kv_heads = file.get_int(a + ".attention.head_count_kv");
  const double eps = file.get_float(a + ".attention.layer_norm_rms_epsilon");
  const double base = file.get_float(a + ".rope.freq_base");
  const double scale_embeddings = file.get_float_or(a + ".embedding_scale", 1.0);
  const double scale_residual = file.get_float_or(a + ".residual_scale", 1.0);
  const PlainMatrix table = read_matrix(file, "token_embd.weight");
  const auto tokens = static_cast<std::int64_t>(prompt.ids.size());
  PlainMatrix x(tokens, table.columns);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto found = std::find(prompt.visual_positions.begin(), prompt.visual_positions.end(), t);
    for (std::int64_t h = 0; h < x.columns; ++h) {
      x.at(t, h) = scale_embeddings * (found != prompt.visual_positions.end()
                                           ? visual.at(found - prompt.visual_positions.begin(), h)
                                           : table.at(prompt.ids[static_cast<std::size_t>(t)], h));
    }
  }
  const auto rotate = [&](PlainMatrix& m, std::int64_t count) {
    const std::int64_t dim = m.columns / count;
    for (std::int64_t t = 0; t < m.rows; ++t) {
      for (std::int64_t h = 0; h < count; ++h) {
        for (std::int64_t i = 0; i < dim / 2; ++i) {
          const double angle =
              static_cast<double>(t) *
              std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
          const std::int64_t p = h * dim + (a == "qwen2" ? i : 2 * i);
          const std::int64_t q = a == "qwen2" ? p + dim / 2 : p + 1;
          const double u = m.at(t, p);
          const double v = m.at(t, q);
          m.at(t, p) = u * std::cos(angle) - v * std::sin(angle);
          m.at(t, q) = u * std::sin(angle) + v * std::cos(angle);
        }
      }
    }
  };
  for (std::int64_t b = 0; b < file.get_int(a + ".block_count"); ++b) {
    const std::string p = fmt::format("blk.{}.", b);
    const PlainMatrix n = rms_norm(file, p + "attn_norm", x, eps);
    PlainMatrix q = linear(file, p + "attn_q", n);
    PlainMatrix k = linear(file, p + "attn_k", n);
    const PlainMatrix v = linear(file, p + "attn_v", n);
    rotate(q, heads);
    rotate(k, kv_heads);
    PlainMatrix mixed(tokens, q.columns);
    attend(q, k, v, heads, kv_heads, {0, tokens, 0, tokens}, true, mixed);
    const PlainMatrix out = linear(file, p + "attn_output", mixed);
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += scale_residual * out.data[i];
    const PlainMatrix m = rms_norm(file, p + "ffn_norm", x, eps);
    PlainMatrix gate = linear(file, p + "ffn_gate", m);
    const PlainMatrix up = linear(file, p + "ffn_up", m);
    for (std::size_t i = 0; i < gate.data.size(); ++i)
      gate.data[i] *= sigmoid(gate.data[i]) * up.data[i];
    const PlainMatrix down = linear(file, p + "ffn_down", gate);
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += scale_residual * down.data[i];
  }
  PlainMatrix logits = linear(file,
                              file.find("output.weight") != nullptr ? "output" : "token_embd",
                              rms_norm(file, "output_norm", x, eps));
  for (double& value : logits.data) value /= file.get_float_or(a + ".logit_scale", 1.0);
  return logits;
}

}  // namespace pocketvlm
