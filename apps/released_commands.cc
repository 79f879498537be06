#include "apps/released_commands.h"

#include <cstdio>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "model/released/released_folder.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

void print_json(const Json& value) {
  std::fputs((value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(), stdout);
}

void print_summary(const CommandLine& line, const FolderSummary& summary) {
  if (line.json) {
    return print_json({{"family", summary.family},
                       {"folder", line.out},
                       {"tensors", summary.tensors},
                       {"bytes", summary.bytes},
                       {"peak_rss_mib", peak_rss_mib()}});
  }
  fmt::print("{}: {}, {} tensors, {} bytes\n", line.out, summary.family, summary.tensors, summary.bytes);
}

ImportOptions options_of(const CommandLine& line) {
  ImportOptions options;
  options.allow_nonfinite = line.allow_nonfinite;
  return options;
}

/// "language" of language.layers.0... and of llm.model...: the part of the name before the first dot.
std::string component_of(const std::string& name) { return name.substr(0, name.find('.')); }

bool is_finite(const TensorView& tensor) {
  try {
    check_finite(tensor, "");
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool needs_engine(const CommandLine& line) { return line.file.ends_with(".gguf"); }

void import_release(const CommandLine& line) {
  PV_CHECK(line.model.empty(), "--model: only takes effect when a GGUF file is imported; leave it out");
  print_summary(line, import_released(line.file, line.out, options_of(line)));
}

void save_release(const CommandLine& line) {
  print_summary(line, save_released(line.file, line.source, line.out, options_of(line)));
}

void inspect_checkpoint(const CommandLine& line) {
  PV_CHECK(fs::is_directory(line.file), "{}: no such folder", line.file);
  const ShardMap shards(line.file);
  const WeightFolder weights(line.file);
  std::map<std::string, std::int64_t> dtypes, parameters;
  std::int64_t bytes = 0;
  Json listed = Json::array(), nonfinite = Json::array();
  PageWindow pages;
  for (const auto& [name, tensor] : weights.tensors()) {
    pages.move_to(tensor.bytes);
    ++dtypes[tensor.dtype];
    std::int64_t count = 1;
    for (const std::int64_t size : tensor.shape) count *= size;
    parameters[component_of(name)] += count;
    parameters["total"] += count;
    bytes += static_cast<std::int64_t>(tensor.bytes.size());
    listed.push_back({{"name", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}});
    if (!is_finite(tensor)) nonfinite.push_back(name);
  }
  std::string family;
  const fs::path config_path = fs::path(line.file) / "config.json";
  if (fs::exists(config_path)) {
    const Json config = read_json(config_path.string());
    if (config.is_object() && config.contains("model") && config["model"].is_object()) family = config["model"].value("family", "");
  }
  const Json report = {{"family", family},        {"tensors", weights.tensors().size()}, {"bytes", bytes},
                       {"dtypes", dtypes},        {"parameters", parameters},            {"nonfinite", nonfinite},
                       {"list", std::move(listed)}};
  if (line.json) return print_json(report);
  for (const Json& tensor : report["list"]) {
    fmt::print("{:<5} {:<24} {}\n", tensor["dtype"].get<std::string>(), tensor["shape"].dump(), tensor["name"].get<std::string>());
  }
  fmt::print("{} tensors, {} parameters, {} bytes\n", weights.tensors().size(), parameters["total"], bytes);
  for (const Json& name : nonfinite) fmt::print("NaN or infinity in {}\n", name.get<std::string>());
}

}  // namespace pocketvlm
