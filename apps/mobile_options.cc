#include "apps/mobile_options.h"

#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "mobile/tuning.h"

namespace pocketvlm {

void add_language_options(CLI::App& command, ModelOptions& options) {
  command.add_option("--model", options.model, "language GGUF file")->required();
  command
      .add_option("--threads", options.session.threads, "0: one for each core this process may use")
      ->check(CLI::Range(0, 1024));
  command.add_option("--kernels",
                     options.session.kernels,
                     "auto: the fastest this processor has; scalar, avx2, ...");
  command.add_option("--kv-cache", options.session.kv_cache, "auto, f32, f16 or q8_0");
  command
      .add_option("--packed",
                  options.session.packed,
                  "weights in the order kernels read them: file (beside the model, made on first "
                  "use), memory, none")
      ->check(CLI::IsMember({"file", "memory", "none"}));
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  add_language_options(command, options);
  command.add_option("--mmproj", options.mmproj, "vision GGUF file");
  command
      .add_option("--vision",
                  options.session.vision,
                  "float, or int8: faster where the kernels can, answers differ a little")
      ->check(CLI::IsMember({"float", "int8"}));
  command
      .add_option("--resident",
                  options.session.resident,
                  "sequential: vision weights leave memory before the decoder is run; both: they "
                  "stay, for many pictures in a row")
      ->check(CLI::IsMember({"sequential", "both"}));
  command
      .add_option("--context",
                  options.session.context,
                  "tokens the cache can hold; 0: the model's, at most 4096")
      ->check(CLI::NonNegativeNumber);
  command.add_option(
      "--tuning", options.tuning, "file that `tune` wrote; auto: the one beside the model; none");
}

void add_sampling_options(CLI::App& command, MobileSampling& sampling) {
  auto* greedy = command.add_flag_callback(
      "--greedy", [] {}, "always the most probable token (the default)");
  command.add_option("--temperature", sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->excludes(greedy);
  command.add_option("--top-p", sampling.top_p, "nucleus")->check(CLI::Range(0.0, 1.0));
  command.add_option("--top-k", sampling.top_k, "0: off")->check(CLI::NonNegativeNumber);
  command
      .add_option("--min-p", sampling.min_p, "drop tokens below this times the largest probability")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "1: off")
      ->check(CLI::Range(0.01, 100.0));
  command.add_option("--max-new-tokens", sampling.max_new_tokens, "length of an answer at most")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--seed", sampling.seed, "of the random choices");
}

void add_json_option(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "one JSON object on standard output");
}

std::string use_tuning(ModelOptions& options) {
  if (options.tuning == "none") return "";
  const bool automatic = options.tuning == "auto";
  const std::string path = automatic ? tuning_path_of(options.model) : options.tuning;
  if (automatic && !std::filesystem::exists(path)) return "";
  const auto tuning = load_config<Tuning>(path);
  if (!made_here(tuning)) {
    PV_CHECK(automatic,
             "{}: measured on {} with {} cores, but this is {} with {}; run `pocketvlm-mobile "
             "tune` here",
             path,
             tuning.processor,
             tuning.cores,
             processor_name(),
             usable_cores());
    spdlog::warn("{}: measured on another device, hence not used; run `pocketvlm-mobile tune` here",
                 path);
    return "";
  }
  apply_tuning(tuning, options.session);
  return path;
}

std::vector<Image> load_images(const std::vector<std::string>& paths, const ImageConfig& config) {
  const DecodeOptions decode = decode_options(config);
  std::vector<Image> images;
  for (const std::string& path : paths) images.push_back(load_image(path, decode));
  return images;
}

}  // namespace pocketvlm
