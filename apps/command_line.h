#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/rlaif_command_line.h"

namespace pocketvlm {

/// Everything that can be said to `pocketvlm`. One parser serves both programs: `pocketvlm` itself, which links no LibTorch so
/// that --help and mistakes are answered at once, and `pocketvlm-engine`, which it hands heavy commands to.
struct CommandLine {
  std::string command;     // e.g. "inspect image"
  std::string file;        // the one positional argument
  std::vector<std::string> overrides;
  bool json = false;
  bool resume = false, changed = false;
  bool fast = false;
  bool dry_run = false;     // ablate

  std::string checkpoint, model, out, png, prompt, tokenizer, text, text_file, jsonl_file, ids, data, type, mmproj_type, gate;  // export: empty is the default
  std::string dtype;       // empty: the command's own choice
  std::string sprites = "emoji", run_name, instruction;
  std::string vision_onnx;              // export: precision of the ONNX files; empty: none
  std::vector<std::string> onnx_grids;  // "32x32"
  std::int64_t onnx_longest = 0;        // 0: the grid's own
  std::int64_t importance_prompts = 0, parity_prompts = 0;  // export; 0: none, and the config's own
  std::optional<double> min_agreement, min_vision_cosine;   // export
  std::vector<std::string> importance_images;
  std::string importance_text;
  std::vector<std::string> images, languages, types;
  std::string source, compat, conversation, adapter, video;
  double video_fps = 30.0;
  std::int64_t index = 0;
  std::string html;                  // data check
  std::string photos, fonts;         // data ocr
  std::string server, template_file, api_key_variable;  // data rewrite
  bool keep_original = false;
  std::int64_t concurrency = 8, attempts = 6;
  double timeout_s = 120;
  std::string task, shapes, device = "cpu";  // bench
  std::int64_t steps = 4, batch = 8, longest_text = 0;
  bool padded = false;  // bench
  std::vector<std::string> runs;              // plot
  std::vector<std::int64_t> simulate_ranks;   // train: plan only; what the plan assumes follows
  double mfu = 0.4, peak_tflops = 989, text_tokens = 64, slices = 0;
  std::int64_t samples = 0;
  RlaifOptions rlaif;
  bool allow_nonfinite = false;
  bool specials = false, bos = false, eos = false, greedy = false, tar = false;
  std::int64_t max_slices = 0, count = 100, num_samples = 1, max_new_tokens = 128, threads = 0, top_k = 0;
  std::uint64_t seed = 0;
  double temperature = 0.0, top_p = 1.0;
};

/// Parses the arguments. Prints help or a usage error itself and exits (0 or 1).
CommandLine parse_command_line(int argc, char** argv);

}  // namespace pocketvlm
