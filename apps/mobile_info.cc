#include <cmath>
#include <cstdio>
#include <map>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"
#include "mobile/decoding.h"
#include "mobile/gguf.h"
#include "mobile/projection.h"
#include "mobile/vision.h"

namespace pocketvlm {
namespace {

struct InfoOptions {
  std::string file;
  bool json = false;
};

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

void run_info(const InfoOptions& options) {
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

}  // namespace

void add_info_command(CLI::App& app) {
  CLI::App* info = app.add_subcommand("info", "check a whole GGUF file and say what it holds");
  auto options = std::make_shared<InfoOptions>();
  info->add_option("file", options->file, "GGUF file")->required();
  add_json_option(*info, options->json);
  info->callback([options] { run_info(*options); });
}

}  // namespace pocketvlm
