#include <cstdio>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"
#include "mobile/tuning.h"

namespace pocketvlm {
namespace {

struct TuneCommand {
  std::string model;
  std::string mmproj;
  std::string out;  // empty: beside the model
  bool json = false;
  TuneOptions search;
};

Json speeds_json(const Speeds& speeds) {
  return {{"vision_ms_per_slice",
           speeds.vision_ms_per_slice > 0 ? Json(speeds.vision_ms_per_slice) : Json(nullptr)},
          {"prefill_tps", speeds.prefill_tps},
          {"decode_tps", speeds.decode_tps}};
}

void run_tune(const TuneCommand& command) {
  Json trials = Json::array();
  const Tuning tuning =
      tune(command.model,
           command.mmproj,
           command.search,
           [&](const std::string& setting, const Speeds& speeds) {
             std::fprintf(stderr,
                          "%-20s vision %8.1f ms a slice  prefill %8.1f tokens/s  decode %7.1f "
                          "tokens/s\n",
                          setting.c_str(),
                          speeds.vision_ms_per_slice,
                          speeds.prefill_tps,
                          speeds.decode_tps);
             Json trial = speeds_json(speeds);
             trial["setting"] = setting;
             trials.push_back(std::move(trial));
           });
  const std::string path = command.out.empty() ? tuning_path_of(command.model) : command.out;
  try {
    write_json(path, config_to_json(tuning));
  } catch (const Error& error) {
    fail("{}; name another place with --out, and give it to chat, bench and serve as --tuning",
         error.what());
  }
  if (command.json) {
    Json result = config_to_json(tuning);
    result["file"] = path;
    result["trials"] = trials;
    return print_json(result);
  }
  std::printf(
      "%s: kernels %s, %d threads on %s cores, %d for decoding, pieces of %d and %d KiB, prompts %d tokens at "
      "a time\n",
      path.c_str(),
      tuning.kernels.c_str(),
      static_cast<int>(tuning.threads),
      tuning.affinity.c_str(),
      static_cast<int>(tuning.decode_threads),
      static_cast<int>(tuning.stream_kib),
      static_cast<int>(tuning.batch_kib),
      static_cast<int>(tuning.prefill_tokens));
}

}  // namespace

void add_tune_command(CLI::App& app) {
  CLI::App* tune = app.add_subcommand(
      "tune", "search the fastest settings on this device; chat, bench and serve use them");
  auto command = std::make_shared<TuneCommand>();
  tune->add_option("--model", command->model, "language GGUF file")->required();
  tune->add_option("--mmproj", command->mmproj, "vision GGUF file");
  tune->add_option("--out", command->out, "file to write; default: beside the model");
  tune->add_option("--prompt-tokens", command->search.prompt_tokens, "random tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20));
  tune->add_option("--gen-tokens", command->search.gen_tokens, "tokens decoded one by one")
      ->check(CLI::Range(1, 1 << 20));
  tune->add_option("--repeat", command->search.repeat, "measurements of each setting")
      ->check(CLI::Range(1, 1000));
  add_json_option(*tune, command->json);
  tune->callback([command] { run_tune(*command); });
}

}  // namespace pocketvlm
