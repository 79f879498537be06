#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "mobile/session.h"

namespace pocketvlm {

/// What every command of pocketvlm-mobile that runs a model is told about it.
struct ModelOptions {
  std::string model;
  std::string mmproj;           // empty: text only
  std::string tuning = "auto";  // auto: the file beside the model, if there is one | none | file
  SessionOptions session;
};

/// Adds --model, --threads, --kernels, --kv-cache and --packed.
void add_language_options(CLI::App& command, ModelOptions& options);

/// Adds these and --mmproj, --vision, --resident, --context and --tuning.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Adds --greedy, --temperature, --top-p, --top-k, --min-p, --repetition-penalty, --max-new-tokens
/// and --seed.
void add_sampling_options(CLI::App& command, MobileSampling& sampling);

/// Adds --json.
void add_json_option(CLI::App& command, bool& json);

/// Fills what the command line leaves open from the tuning file. A file beside the model that was
/// measured on another device is passed over with a warning; one named with --tuning is an Error
/// then. Returns the path of the file that is used; empty: none.
std::string use_tuning(ModelOptions& options);

/// Decodes picture files as the model wants them. Throws Error naming the file.
std::vector<Image> load_images(const std::vector<std::string>& paths, const ImageConfig& config);

}  // namespace pocketvlm
