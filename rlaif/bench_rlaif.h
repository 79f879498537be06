#pragma once

#include "trainer/bench_shapes.h"

/// Timed work of the alignment loop, by the functions that the loop itself calls, on random weights and data.
namespace pocketvlm {

/// Optimizer steps on 4 pairs: one picture, 24 tokens of prompt, two answers of 40 to 160 tokens; sigmoid loss, references known. Useful:
/// tokens of both sequences of a pair as they are without sharing.
BenchResult bench_preferences(const BenchSettings& settings);

/// One picture with a prompt of 24 tokens, ten answers of 64 tokens at temperature 0.7, top-p 0.95. Useful: tokens drawn.
BenchResult bench_rollout(const BenchSettings& settings);

/// 24 yes/no questions of 20 tokens about one picture. Useful: questions.
BenchResult bench_judge(const BenchSettings& settings);

}  // namespace pocketvlm
