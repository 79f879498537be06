#pragma once

#include "trainer/bench_shapes.h"

namespace pocketvlm {

/// Times optimizer steps of task "sft" (everything learns) or "stage1" (the projector alone learns): `batch` samples of one picture
/// and one text each, packed; AdamW, gradients clipped. Useful: visual and text tokens.
/// details: "operations_per_step" (training_operations), "peak_operations_per_s" (measured products), "mfu", and "roofline",
/// a sentence.
BenchResult bench_training(const BenchSettings& settings);

}  // namespace pocketvlm
