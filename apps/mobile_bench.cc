#include <cstdio>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"
#include "base/files.h"
#include "mobile/measure.h"

namespace pocketvlm {
namespace {

struct BenchOptions {
  ModelOptions model;
  bool json = false;
  std::int64_t prompt_tokens = 512;
  std::int64_t gen_tokens = 64;
  std::int64_t repeat = 3;
};

Json bench(const BenchOptions& options, const SessionOptions& session_options) {
  std::vector<double> load_ms;
  std::vector<double> vision_ms;
  std::vector<double> prefill;
  std::vector<double> decode;
  std::vector<double> encoding_ms;
  Json result;
  for (std::int64_t round = 0; round < options.repeat; ++round) {
    std::unique_ptr<Session> session;
    load_ms.push_back(1000.0 * seconds_of([&] {
                        session = std::make_unique<Session>(
                            options.model.model, options.model.mmproj, session_options);
                      }));
    const Speeds speeds = measure_speeds(
        *session, options.prompt_tokens, options.gen_tokens, static_cast<std::uint64_t>(round));
    vision_ms.push_back(speeds.vision_ms_per_slice);
    prefill.push_back(speeds.prefill_tps);
    decode.push_back(speeds.decode_tps);
    encoding_ms.push_back(load_ms.back() + speeds.vision_ms_per_slice +
                          1000.0 * static_cast<double>(options.prompt_tokens) / speeds.prefill_tps);
    result["threads"] = session->threads();
    result["decode_threads"] = session->decode_threads();
    result["kernels"] = session->kernels();
  }
  const bool has_vision = !options.model.mmproj.empty();
  return {{"load_ms", median(load_ms)},
          {"vision_ms_per_slice", has_vision ? Json(median(vision_ms)) : Json(nullptr)},
          {"prefill_tps", median(prefill)},
          {"encoding_ms", median(encoding_ms)},
          {"decode_tps", median(decode)},
          {"peak_rss_mib", peak_rss_mib()},
          {"threads", result["threads"]},
          {"decode_threads", result["decode_threads"]},
          {"kernels", result["kernels"]},
          {"prompt_tokens", options.prompt_tokens},
          {"gen_tokens", options.gen_tokens},
          {"repeat", options.repeat}};
}

void run_bench(BenchOptions& options) {
  const std::string tuning = use_tuning(options.model);
  SessionOptions session_options = options.model.session;
  const std::int64_t needed = options.prompt_tokens + options.gen_tokens;
  if (session_options.context == 0) session_options.context = needed;
  PV_CHECK(
      session_options.context >= needed,
      "--prompt-tokens {} and --gen-tokens {} need a context of {}, but --context is {}; raise "
      "it",
      options.prompt_tokens,
      options.gen_tokens,
      needed,
      session_options.context);
  Json result = bench(options, session_options);
  result["tuning"] = tuning.empty() ? Json(nullptr) : Json(tuning);
  if (options.json) return print_json(result);
  std::printf("load %.1f ms, prefill %.1f tokens/s, decode %.1f tokens/s",
              result["load_ms"].get<double>(),
              result["prefill_tps"].get<double>(),
              result["decode_tps"].get<double>());
  if (!options.model.mmproj.empty())
    std::printf(", vision %.1f ms a slice", result["vision_ms_per_slice"].get<double>());
  std::printf(", peak %.0f MiB, %d threads (%d decoding), kernels %s%s\n",
              result["peak_rss_mib"].get<double>(),
              result["threads"].get<int>(),
              result["decode_threads"].get<int>(),
              result["kernels"].get<std::string>().c_str(),
              tuning.empty() ? "" : ", tuned");
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* bench =
      app.add_subcommand("bench", "measure loading, vision, prefill and decoding; medians");
  auto options = std::make_shared<BenchOptions>();
  add_model_options(*bench, options->model);
  add_tuning_option(*bench, options->model);
  add_json_option(*bench, options->json);
  bench->add_option("--prompt-tokens", options->prompt_tokens, "random tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20));
  bench->add_option("--gen-tokens", options->gen_tokens, "tokens decoded one by one")
      ->check(CLI::Range(1, 1 << 20));
  bench->add_option("--repeat", options->repeat, "rounds")->check(CLI::Range(1, 1000));
  bench->callback([options] { run_bench(*options); });
}

}  // namespace pocketvlm
