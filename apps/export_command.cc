#include "apps/export_command.h"

#include <torch/types.h>

#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/files.h"
#include "base/log.h"
#include "exporter/importance.h"
#include "exporter/onnx_export.h"
#include "exporter/parity.h"
#include "exporter/tensor_types.h"
#include "model/checkpoint.h"
#include "trainer/evaluation.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

bool wants_importance(const CommandLine& line) {
  return line.importance_prompts > 0 || !line.importance_images.empty() || !line.importance_text.empty();
}

/// Options that would change nothing here are mistakes.
void check_options(const CommandLine& line) {
  PV_CHECK(!line.vision_onnx.empty() || (line.onnx_grids.empty() && line.onnx_longest == 0),
           "--onnx-grid and --onnx-longest belong to --vision-onnx; give it as well");
  const bool for_gate = !line.dtype.empty() || line.min_agreement || line.min_vision_cosine || line.parity_prompts > 0;
  PV_CHECK(!line.type.empty() || !(for_gate || !line.gate.empty() || !line.mmproj_type.empty() || !line.prompt.empty() || wants_importance(line)),
           "--mmproj-type, --prompt, --gate and its bounds, --dtype and --importance-... are for GGUF files; give --type as well, or drop them");
  if (line.type.empty()) return;
  PV_CHECK(line.gate != "off" || !for_gate,
           "--dtype, --parity-prompts, --min-agreement and --min-vision-cosine are for the parity gate; drop them or --gate off");
  const bool asks = line.importance_prompts > 0 || !line.importance_images.empty();
  PV_CHECK(line.gate != "off" || ((line.prompt.empty() || asks) && (line.images.empty() || !line.vision_onnx.empty())),
           "--image and --prompt are for the parity gate; drop them or --gate off");
  PV_CHECK(line.images.empty() || line.parity_prompts == 0,
           "--parity-prompts counts scenes, but --image names the pictures of the parity gate; drop one of them");
  PV_CHECK(!wants_importance(line) || uses_importance(line.type),
           "--importance-prompts, --importance-image and --importance-text change nothing in a file of type {}; drop them, or take q4_0, "
           "q4_k_m or q6_k", line.type);
}

/// The vision part as ONNX; returns the report.
Json export_onnx(const CommandLine& line) {
  OnnxExportOptions options;
  options.precision = line.vision_onnx;
  options.longest = line.onnx_longest;
  for (const std::string& grid : line.onnx_grids) options.grids.push_back(parse_grid(grid));
  const ModelConfig config = load_checkpoint_config(line.checkpoint);
  for (const std::string& path : line.images) options.pictures.push_back(load_image(path, decode_options(config.image)));
  return export_vision_onnx(line.checkpoint, options, line.out);
}

/// One question about each picture.
std::vector<ParityPrompt> picture_prompts(const std::vector<std::string>& paths, const CommandLine& line, const ModelConfig& model) {
  std::vector<ParityPrompt> prompts;
  for (const std::string& path : paths) {
    Chat chat;
    chat.turns.push_back({"user", line.prompt.empty() ? EvaluationConfig{}.prompt : line.prompt});
    chat.images.push_back(load_image(path, decode_options(model.image)));
    prompts.push_back({std::move(chat)});
  }
  return prompts;
}

ExportConfig read_bounds(const CommandLine& line) {
  ExportConfig config;
  config.types = {line.type};
  if (!line.mmproj_type.empty()) config.mmproj_type = line.mmproj_type;
  if (line.parity_prompts > 0) config.parity_prompts = line.parity_prompts;
  config.importance_prompts = line.importance_prompts;
  if (line.min_vision_cosine) config.min_vision_cosine = *line.min_vision_cosine;
  if (line.min_agreement) config.min_agreement_f16 = config.min_agreement_q8_0 = config.min_agreement_q4 = *line.min_agreement;
  // Read through the config so that an unknown type is answered like any other mistake.
  return read_config<ExportConfig>(config_to_json(config), "export");
}

/// What phone and trainer give for the calibration prompts; the trainer's model is in memory for no longer than that, or mapped
/// where its weights are bfloat16.
Json run_gate(const CommandLine& line, const ExportConfig& config, const ExportedFiles& files) {
  const ModelConfig model = load_checkpoint_config(line.checkpoint);
  const std::vector<ParityPrompt> prompts = line.images.empty()
                                                ? calibration_prompts(model.image, model.prompt, config.parity_prompts, line.prompt)
                                                : picture_prompts(line.images, line, model);
  const torch::Dtype held = line.dtype.empty() ? stored_dtype(line.checkpoint) : line.dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  LoadedModel trainer = load_model(line.checkpoint, held);
  return check_parity(trainer, files, line.type, prompts, config);
}

/// Scenes are those that the gate does not see, so that its figures stay those of prompts nobody fitted.
std::optional<Importance> measured_importance(const CommandLine& line, const ExportConfig& config) {
  if (!wants_importance(line)) return std::nullopt;
  const ModelConfig model = load_checkpoint_config(line.checkpoint);
  CalibrationData data;
  std::vector<std::string> names;
  if (config.importance_prompts > 0) {
    data.prompts = chats_of(calibration_prompts(model.image, model.prompt, config.importance_prompts, line.prompt, config.parity_prompts));
    names.push_back(kScenesDataset);
  }
  for (Chat& chat : chats_of(picture_prompts(line.importance_images, line, model))) data.prompts.push_back(std::move(chat));
  if (!line.importance_images.empty()) names.push_back(fmt::format("{} pictures", line.importance_images.size()));
  if (!line.importance_text.empty()) {
    data.text = read_file(line.importance_text);
    PV_CHECK(!data.text.empty(), "{}: empty; --importance-text needs text", line.importance_text);
    names.push_back(fs::path(line.importance_text).filename().string());
  }
  data.name = fmt::format("{}", fmt::join(names, " + "));
  return measure_importance(line.checkpoint, data, line.out);
}

/// Language model and mmproj as GGUF, compared with the trainer unless --gate is off; returns files and parity. Until they are
/// compared, and where the gate refuses them, the files have names of their own.
Json export_for_phone(const CommandLine& line) {
  const ExportConfig config = read_bounds(line);
  const std::optional<Importance> importance = measured_importance(line, config);
  const bool gate = line.gate != "off";
  ExportedFiles files = export_gguf(line.checkpoint, line.type, config.mmproj_type, line.out, importance ? &*importance : nullptr,
                                    gate ? kUncheckedMark : "");
  if (!gate) {
    spdlog::warn("--gate off: nobody compared {} with the checkpoint; run the export once without it", files.language);
  }
  Json parity = gate ? run_gate(line, config, files) : Json{{"gate", "off"}, {"passed", nullptr}};
  if (parity["passed"] == true) accept_files(files);
  parity["type"] = line.type;
  parity["mmproj_type"] = config.mmproj_type;
  parity["files"] = {fs::path(files.language).filename().string(), fs::path(files.mmproj).filename().string()};
  parity["llama_cpp_differences"] = files.llama_cpp_differences;
  parity["importance"] = importance ? importance->to_json() : Json(nullptr);
  // One for each type, and the last one's where scripts look for it.
  for (const std::string& name : {"parity-" + line.type + ".json", std::string("parity.json")}) {
    write_json((fs::path(line.out) / name).string(), parity);
  }
  return {{"language", files.language}, {"mmproj", files.mmproj}, {"language_bytes", files.language_bytes},
          {"mmproj_bytes", files.mmproj_bytes}, {"parity", parity}};
}

void print_result(const Json& result, bool json) {
  if (json) {
    std::fputs((result.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
    return;
  }
  if (result.contains("parity")) {
    fmt::print("{} ({} bytes)\n{} ({} bytes)\nparity: {}\n", result["language"].get<std::string>(), result["language_bytes"].dump(),
               result["mmproj"].get<std::string>(), result["mmproj_bytes"].dump(), result["parity"].dump());
  }
  if (!result.contains("onnx")) return;
  for (const Json& file : result["onnx"]["files"]) {
    fmt::print("{} ({} bytes)\ncosine to the trainer: {}\n", file["file"].get<std::string>(), file["bytes"].dump(), file["cosine"].dump());
  }
}

}  // namespace

void export_checkpoint(const CommandLine& line) {
  check_options(line);
  Json result = line.type.empty() ? Json::object() : export_for_phone(line);
  if (!line.vision_onnx.empty()) result["onnx"] = export_onnx(line);
  print_result(result, line.json);
  if (result.contains("parity") && result["parity"]["passed"] == false) {
    throw CheckFailed(fmt::format("{}: phone and trainer differ beyond the bounds: {}; the refused files are {} and {}",
                                  (fs::path(line.out) / ("parity-" + line.type + ".json")).string(),
                                  explain_failure(result["parity"]), result["language"].get<std::string>(),
                                  result["mmproj"].get<std::string>()));
  }
  if (result.contains("onnx") && !result["onnx"]["passed"].get<bool>()) {
    throw CheckFailed(fmt::format("{}: a visual token's cosine to the trainer's is below {}", line.out, result["onnx"]["required_cosine"].dump()));
  }
}

}  // namespace pocketvlm
