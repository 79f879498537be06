#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace pocketvlm {

/// Sizes of a model for timing, read from a file in Hugging Face's words:
///   {"vision": {SigLIP's config}, "queries", "resampler_heads", "language": {Llama's config}}
/// Every picture is one square slice, every sample has one.
struct BenchShapes {
  ModelConfig model;
  static BenchShapes read(const std::string& path);
  int64_t patches() const { return model.vision.position_side * model.vision.position_side; }
};

/// How one kind of work is timed.
struct BenchSettings {
  BenchShapes shapes;
  std::string task;
  std::string dtype = "bf16";
  std::string device = "cpu";  // or cuda
  int64_t steps = 4;
  int64_t batch = 8;
  int64_t longest_text = 512;  // sft, stage1: texts are 8 to this many tokens long
  bool padded = false;  // sft, stage1: every text as long as its step's longest, to see what packing is worth
};

/// What a timed run says; the program adds parameters and, of the host, peak memory.
struct BenchResult {
  std::vector<double> seconds;  // of each step after the first, which warms up
  double useful = 0;            // of what the task counts (tokens without padding, answers ...), over all these steps
  int64_t parameters = 0;
  double peak_device_mib = 0;   // of a GPU's memory
  Json details;                 // task's own figures, e.g. where the time goes
};

/// `count` lengths between low and high, log-uniform as mixtures of captions and questions are: many short, few long. The
/// same numbers as Python's random.Random(seed).uniform gives, so that a peer written in Python works on the same lengths.
std::vector<int64_t> bench_lengths(int64_t count, uint64_t seed, int64_t low, int64_t high);

}  // namespace pocketvlm
