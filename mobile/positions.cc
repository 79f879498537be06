#include "mobile/positions.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

double cubic(double x, double a) {
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

struct Taps {
  std::vector<std::int64_t> from;
  std::vector<float> weights;
};

std::vector<Taps> antialiased_taps(std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double support = 2.0 * stretch;
  std::vector<Taps> taps(static_cast<std::size_t>(out));
  for (std::int64_t o = 0; o < out; ++o) {
    const double centre = scale * (static_cast<double>(o) + 0.5);
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
    const auto last = std::min<std::int64_t>(in, static_cast<std::int64_t>(centre + support + 0.5));
    std::vector<double> weights;
    double sum = 0.0;
    for (std::int64_t i = first; i < last; ++i) {
      weights.push_back(cubic((static_cast<double>(i) - centre + 0.5) / stretch, -0.5));
      sum += weights.back();
    }
    Taps& tap = taps[static_cast<std::size_t>(o)];
    for (std::size_t k = 0; k < weights.size(); ++k) {
      tap.from.push_back(first + static_cast<std::int64_t>(k));
      tap.weights.push_back(static_cast<float>(weights[k] / sum));
    }
  }
  return taps;
}

std::vector<Taps> plain_taps(std::int64_t in, std::int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  std::vector<Taps> taps(static_cast<std::size_t>(out));
  for (std::int64_t o = 0; o < out; ++o) {
    const double source = scale * (static_cast<double>(o) + 0.5) - 0.5;
    const double whole = std::floor(source);
    Taps& tap = taps[static_cast<std::size_t>(o)];
    for (std::int64_t k = -1; k <= 2; ++k) {
      const std::int64_t at = static_cast<std::int64_t>(whole) + k;
      tap.from.push_back(std::clamp<std::int64_t>(at, 0, in - 1));
      tap.weights.push_back(
          static_cast<float>(cubic(source - whole - static_cast<double>(k), -0.75)));
    }
  }
  return taps;
}

std::vector<float> resample(const std::vector<float>& table,
                            std::int64_t side,
                            std::int64_t hidden,
                            const std::vector<Taps>& vertical,
                            const std::vector<Taps>& horizontal) {
  const auto rows = static_cast<std::int64_t>(vertical.size());
  const auto columns = static_cast<std::int64_t>(horizontal.size());
  const auto mix = [hidden](
                       const float* source, std::int64_t step, const Taps& tap, float* target) {
    for (std::size_t k = 0; k < tap.from.size(); ++k) {
      const float* row = source + tap.from[k] * step;
      for (std::int64_t h = 0; h < hidden; ++h) target[h] += tap.weights[k] * row[h];
    }
  };
  std::vector<float> wide(static_cast<std::size_t>(side * columns * hidden), 0.0F);
  for (std::int64_t y = 0; y < side; ++y) {
    for (std::int64_t x = 0; x < columns; ++x) {
      mix(&table[static_cast<std::size_t>(y * side * hidden)],
          hidden,
          horizontal[static_cast<std::size_t>(x)],
          &wide[static_cast<std::size_t>((y * columns + x) * hidden)]);
    }
  }
  std::vector<float> out(static_cast<std::size_t>(rows * columns * hidden), 0.0F);
  for (std::int64_t y = 0; y < rows; ++y) {
    for (std::int64_t x = 0; x < columns; ++x) {
      mix(&wide[static_cast<std::size_t>(x * hidden)],
          columns * hidden,
          vertical[static_cast<std::size_t>(y)],
          &out[static_cast<std::size_t>((y * columns + x) * hidden)]);
    }
  }
  return out;
}

}  // namespace

std::vector<float> resample_positions_antialiased(const std::vector<float>& table,
                                                  std::int64_t side,
                                                  std::int64_t hidden,
                                                  std::int64_t rows,
                                                  std::int64_t columns) {
  if (rows == side && columns == side) return table;
  return resample(
      table, side, hidden, antialiased_taps(side, rows), antialiased_taps(side, columns));
}

std::vector<float> resample_positions(const std::vector<float>& table,
                                      std::int64_t side,
                                      std::int64_t hidden,
                                      std::int64_t rows,
                                      std::int64_t columns) {
  return resample(table, side, hidden, plain_taps(side, rows), plain_taps(side, columns));
}

std::vector<float> sincos_table(std::int64_t rows, std::int64_t columns, std::int64_t hidden) {
  const std::int64_t quarter = hidden / 4;
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < quarter; ++i) {
    frequencies.push_back(
        std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(quarter)));
  }
  std::vector<float> table(static_cast<std::size_t>(rows * columns * hidden));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      float* out = &table[static_cast<std::size_t>((r * columns + c) * hidden)];
      for (std::int64_t i = 0; i < quarter; ++i) {
        const double across = static_cast<double>(c) * frequencies[static_cast<std::size_t>(i)];
        const double down = static_cast<double>(r) * frequencies[static_cast<std::size_t>(i)];
        out[i] = static_cast<float>(std::sin(across));
        out[quarter + i] = static_cast<float>(std::cos(across));
        out[2 * quarter + i] = static_cast<float>(std::sin(down));
        out[3 * quarter + i] = static_cast<float>(std::cos(down));
      }
    }
  }
  return table;
}

}  // namespace pocketvlm
