#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"
#include "mobile/decoding.h"
#include "mobile/gguf.h"
#include "mobile/projection.h"
#include "mobile/session.h"
#include "mobile/vision.h"

namespace pocketvlm {
namespace {

struct Options {
  std::string model, mmproj, prompt, system, file;
  std::vector<std::string> images;
  bool json = false;
  bool greedy = false;
  SessionOptions session;
  MobileSampling sampling;
  std::int64_t prompt_tokens = 512;
  std::int64_t gen_tokens = 64;
  std::int64_t repeat = 3;
};

void print_json(const Json& value) { std::printf("%s\n", value.dump(2).c_str()); }

Json timings_json(const ChatTimings& timings) {
  const auto rate = [](std::int64_t tokens, double ms) {
    return ms > 0.0 ? Json(static_cast<double>(tokens) * 1000.0 / ms) : Json(nullptr);
  };
  return {{"load_ms", timings.load_ms},
          {"image_ms", timings.image_ms},
          {"vision_ms", timings.vision_ms},
          {"slices", timings.slices},
          {"prompt_tokens", timings.prompt_tokens},
          {"prefill_ms", timings.prefill_ms},
          {"prefill_tps", rate(timings.prompt_tokens, timings.prefill_ms)},
          {"generated_tokens", timings.generated_tokens},
          {"decode_ms", timings.decode_ms},
          {"decode_tps", rate(timings.generated_tokens, timings.decode_ms)},
          {"peak_rss_mib", peak_rss_mib()}};
}

std::vector<Image> load_images(const std::vector<std::string>& paths, const ImageConfig& config) {
  DecodeOptions decode;
  decode.max_megapixels = config.max_megapixels;
  decode.apply_exif = config.exif == "apply";
  std::vector<Image> images;
  for (const std::string& path : paths) images.push_back(load_image(path, decode));
  return images;
}

bool print_piece(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return true;
}

void chat_once(Session& session, const Options& options) {
  Chat chat;
  if (!options.system.empty()) chat.turns.push_back({"system", options.system});
  chat.turns.push_back({"user", options.prompt});
  chat.images = load_images(options.images, session.encoder().image());
  if (!options.json) {
    session.chat(chat, options.sampling, print_piece);
    std::printf("\n");
    return;
  }
  const ChatAnswer answer = session.chat(chat, options.sampling);
  print_json({{"text", answer.text},
              {"ids", answer.ids},
              {"stopped", answer.stopped},
              {"timings", timings_json(answer.timings)}});
}

// A conversation on the terminal. Lines that begin with a slash are commands.
void chat_on_terminal(Session& session, const Options& options) {
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  if (terminal) {
    std::fprintf(stderr,
                 "/image FILE adds a picture to the next message, /reset starts over, /exit or "
                 "Ctrl-D ends.\n");
  }
  Chat chat;
  const auto start_over = [&] {
    chat = Chat();
    if (!options.system.empty()) chat.turns.push_back({"system", options.system});
  };
  start_over();
  std::vector<std::string> waiting = options.images;
  std::string line;
  while (true) {
    if (terminal) std::fprintf(stderr, "> ");
    if (!std::getline(std::cin, line) || line == "/exit") return;
    if (line.empty()) continue;
    if (line == "/reset") {
      start_over();
      continue;
    }
    const Chat before = chat;
    try {
      if (line.starts_with("/image ")) {
        load_images({line.substr(7)}, session.encoder().image());  // says now what is wrong with it
        waiting.push_back(line.substr(7));
        continue;
      }
      PV_CHECK(
          line[0] != '/', "unknown command \"{}\"; there are /image FILE, /reset and /exit", line);
      std::string content;
      for (Image& image : load_images(waiting, session.encoder().image())) {
        chat.images.push_back(std::move(image));
        content += "<image>\n";
      }
      chat.turns.push_back({"user", content + line});
      const ChatAnswer answer = session.chat(chat, options.sampling, print_piece);
      std::printf("\n");
      chat.turns.push_back({"assistant", answer.text});
      waiting.clear();
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      chat = before;
    }
  }
}

void run_chat(const Options& options) {
  PV_CHECK(!options.json || !options.prompt.empty(), "--json needs --prompt");
  PV_CHECK(options.images.empty() || !options.mmproj.empty(),
           "--image needs the vision file: add --mmproj FILE");
  PV_CHECK(!options.greedy || options.sampling.temperature == 0.0,
           "--greedy and --temperature exclude each other");
  Session session(options.model, options.mmproj, options.session);
  if (options.prompt.empty())
    chat_on_terminal(session, options);
  else
    chat_once(session, options);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

template <typename Work>
double seconds_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Noise: vision speed does not depend on the picture, and a new one each time keeps the slice cache
// out of it.
EncodedChat noise_slice(const Session& session, std::uint64_t number) {
  const ImageConfig& config = session.encoder().image();
  const auto side =
      static_cast<int>(config.mode == "slices" ? config.scale_resolution : config.image_size);
  Image image(side, side);
  Random random({number});
  for (std::uint8_t& value : image.rgb) value = static_cast<std::uint8_t>(random.below(256));
  const ProcessedImage processed = process_image(image, config);
  EncodedChat encoded;
  const auto patch = static_cast<int>(config.patch_size);
  for (const ImageSlice& slice : processed.slices) {
    encoded.grids.push_back({slice.height / patch, slice.width / patch});
    append_patches(slice, patch, encoded.patches);
  }
  return encoded;
}

void run_bench(const Options& options) {
  std::vector<double> load_ms;
  std::vector<double> vision_ms;
  std::vector<double> prefill;
  std::vector<double> decode;
  SessionOptions session_options = options.session;
  if (session_options.context == 0)
    session_options.context = options.prompt_tokens + options.gen_tokens;
  std::string kernels;
  int threads = 0;
  Random random({1});
  for (std::int64_t round = 0; round < options.repeat; ++round) {
    std::unique_ptr<Session> session;
    load_ms.push_back(1000.0 * seconds_of([&] {
                        session = std::make_unique<Session>(
                            options.model, options.mmproj, session_options);
                      }));
    kernels = session->kernels();
    threads = session->threads();
    if (!options.mmproj.empty()) {
      const EncodedChat slice = noise_slice(*session, static_cast<std::uint64_t>(round));
      const double seconds = seconds_of([&] { session->encode_image(slice); });
      vision_ms.push_back(1000.0 * seconds / static_cast<double>(slice.grids.size()));
    }
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < options.prompt_tokens; ++i) {
      ids.push_back(static_cast<std::int32_t>(random.below(session->language().vocab)));
    }
    // The first pass also brings the file's pages into memory; its time is not that of prefill.
    if (round == 0) session->append(std::span(ids).first(1));
    session->reset();
    const double prefill_s = seconds_of([&] { session->append(ids); });
    prefill.push_back(static_cast<double>(options.prompt_tokens) / prefill_s);
    const double decode_s = seconds_of([&] {
      for (std::int64_t i = 0; i < options.gen_tokens; ++i) {
        const auto id = static_cast<std::int32_t>(random.below(session->language().vocab));
        session->append(std::span(&id, 1));
      }
    });
    decode.push_back(static_cast<double>(options.gen_tokens) / decode_s);
  }
  const Json result = {
      {"load_ms", median(load_ms)},
      {"vision_ms_per_slice", vision_ms.empty() ? Json(nullptr) : Json(median(vision_ms))},
      {"prefill_tps", median(prefill)},
      {"decode_tps", median(decode)},
      {"peak_rss_mib", peak_rss_mib()},
      {"threads", threads},
      {"kernels", kernels},
      {"prompt_tokens", options.prompt_tokens},
      {"gen_tokens", options.gen_tokens},
      {"repeat", options.repeat}};
  if (options.json) return print_json(result);
  std::printf("load %.1f ms, prefill %.1f tokens/s, decode %.1f tokens/s",
              median(load_ms),
              median(prefill),
              median(decode));
  if (!vision_ms.empty()) std::printf(", vision %.1f ms a slice", median(vision_ms));
  std::printf(
      ", peak %.0f MiB, %d threads, kernels %s\n", peak_rss_mib(), threads, kernels.c_str());
}

Json shown_value(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    return fmt::format("{} x {}", array->size(), gguf_value_type_name(array->element_type));
  }
  Json shown;
  std::visit(
      [&](const auto& held) {
        using Held = std::remove_cvref_t<decltype(held)>;
        if constexpr (std::is_same_v<Held, double>)
          shown = std::isfinite(held) ? Json(held) : Json(nullptr);
        else if constexpr (!std::is_same_v<Held, GgufArray>)
          shown = held;
      },
      value.value);
  return shown;
}

// Everything that a session would check, and the bytes of every tensor.
void check_whole_file(const GgufFile& file) {
  file.check_finite();
  const std::string& architecture = file.get_string("general.architecture");
  if (architecture == "clip") {
    const MobileVisionParams vision = read_vision_params(file);
    const MobileVisionEncoder encoder(file, vision);
    const MobileProjector projector(file, read_projector_params(file), vision.hidden);
    if (!file.has("pocketvlm.image_config")) {
      file.get_floats("clip.vision.image_mean");
      file.get_floats("clip.vision.image_std");
    }
    return;
  }
  const bool has_tokens = file.has("tokenizer.ggml.tokens");
  if (has_tokens) Tokenizer::load(file.path());
  if (file.tensors().empty() && has_tokens) return;  // a vocabulary alone
  const MobileLanguageParams params = read_language_params(file);
  const MobileDecoder decoder(file, params);
  PV_CHECK(
      has_tokens, "{}: no tokenizer in the file (tokenizer.ggml.tokens is missing)", file.path());
  PV_CHECK(
      static_cast<std::int64_t>(file.get_array("tokenizer.ggml.tokens").size()) == params.vocab,
      "{}: {} tokens, but {} rows of embeddings",
      file.path(),
      file.get_array("tokenizer.ggml.tokens").size(),
      params.vocab);
  read_image_config(file, nullptr);
  read_prompt_config(file, nullptr);
}

void run_info(const Options& options) {
  const GgufFile file(options.file);
  check_whole_file(file);
  std::map<std::string, std::int64_t> types;
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    ++types[type_info(tensor.type).name];
    parameters += tensor.num_elements();
    bytes += static_cast<std::int64_t>(tensor.bytes.size());
  }
  const double bits =
      parameters > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters) : 0.0;
  if (options.json) {
    Json metadata = Json::object();
    for (const auto& [key, value] : file.metadata()) metadata[key] = shown_value(value);
    Json tensors = Json::array();
    for (const GgufTensor& tensor : file.tensors()) {
      tensors.push_back(
          {{"name", tensor.name}, {"type", type_info(tensor.type).name}, {"ne", tensor.ne}});
    }
    return print_json({{"file", file.path()},
                       {"bytes", file.size()},
                       {"architecture", file.get_string("general.architecture")},
                       {"alignment", file.alignment()},
                       {"parameters", parameters},
                       {"bits_per_weight", bits},
                       {"types", types},
                       {"metadata", metadata},
                       {"tensors", tensors},
                       {"valid", true}});
  }
  std::printf(
      "%s: %s, %zu bytes, %zu tensors, %lld parameters, %.2f bits per weight; the whole file was "
      "checked\n",
      file.path().c_str(),
      file.get_string("general.architecture").c_str(),
      file.size(),
      file.tensors().size(),
      static_cast<long long>(parameters),
      bits);
  for (const auto& [type, count] : types)
    std::printf("  %lld x %s\n", static_cast<long long>(count), type.c_str());
  for (const auto& [key, value] : file.metadata()) {
    std::string text = shown_value(value).dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 100) text = text.substr(0, 97) + "...";
    std::printf("  %s = %s\n", key.c_str(), text.c_str());
  }
}

void add_session_options(CLI::App& command, Options& options) {
  command.add_option("--model", options.model, "language GGUF file")->required();
  command.add_option("--mmproj", options.mmproj, "vision GGUF file");
  command
      .add_option("--threads", options.session.threads, "0: one for each core this process may use")
      ->check(CLI::Range(0, 1024));
  command.add_option("--kernels",
                     options.session.kernels,
                     "auto: the fastest this processor has; scalar, avx2, ...");
  command
      .add_option("--context",
                  options.session.context,
                  "tokens the cache can hold; 0: the model's, at most 4096")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--kv-cache", options.session.kv_cache, "auto, f32 or f16");
  command.add_flag("--json", options.json, "one JSON object on standard output");
}

void add_chat(CLI::App& app, Options& options) {
  CLI::App* chat = app.add_subcommand("chat", "answer one prompt, or talk on the terminal");
  add_session_options(*chat, options);
  chat->add_option("--image", options.images, "picture for the (first) message; may be repeated");
  chat->add_option("--prompt", options.prompt, "the message; without it a conversation begins");
  chat->add_option("--system", options.system, "system message");
  chat->add_flag("--greedy", options.greedy, "always the most probable token (the default)");
  chat->add_option("--temperature", options.sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0));
  chat->add_option("--top-p", options.sampling.top_p, "nucleus")->check(CLI::Range(0.0, 1.0));
  chat->add_option("--top-k", options.sampling.top_k, "0: off")->check(CLI::NonNegativeNumber);
  chat->add_option(
          "--min-p", options.sampling.min_p, "drop tokens below this times the largest probability")
      ->check(CLI::Range(0.0, 1.0));
  chat->add_option("--repetition-penalty", options.sampling.repetition_penalty, "1: off")
      ->check(CLI::Range(0.01, 100.0));
  chat->add_option(
          "--max-new-tokens", options.sampling.max_new_tokens, "length of an answer at most")
      ->check(CLI::Range(1, 1 << 20));
  chat->add_option("--seed", options.sampling.seed, "of the random choices");
  chat->callback([&options] { run_chat(options); });
}

void add_bench(CLI::App& app, Options& options) {
  CLI::App* bench =
      app.add_subcommand("bench", "measure loading, vision, prefill and decoding; medians");
  add_session_options(*bench, options);
  bench->add_option("--prompt-tokens", options.prompt_tokens, "random tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20));
  bench->add_option("--gen-tokens", options.gen_tokens, "tokens decoded one by one")
      ->check(CLI::Range(1, 1 << 20));
  bench->add_option("--repeat", options.repeat, "rounds")->check(CLI::Range(1, 1000));
  bench->callback([&options] { run_bench(options); });
}

void add_info(CLI::App& app, Options& options) {
  CLI::App* info = app.add_subcommand("info", "check a whole GGUF file and say what it holds");
  info->add_option("file", options.file, "GGUF file")->required();
  info->add_flag("--json", options.json, "one JSON object on standard output");
  info->callback([&options] { run_info(options); });
}

}  // namespace
}  // namespace pocketvlm

int main(int argc, char** argv) {
  pocketvlm::set_up_logging();
  CLI::App app("pocketvlm-mobile: vision-language models on a phone, from GGUF files");
  app.require_subcommand(1);
  pocketvlm::Options options;
  pocketvlm::add_chat(app, options);
  pocketvlm::add_bench(app, options);
  pocketvlm::add_info(app, options);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 1;
  } catch (const pocketvlm::CheckFailed& error) {
    std::fprintf(stderr, "pocketvlm-mobile: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pocketvlm-mobile: %s\n", error.what());
    return 1;
  }
}
