#include <map>

#include "mobile/gguf.h"
#include "mobile/session.h"
#include "tests/fuzz/target.h"
#include "tests/mobile/tiny_model.h"

namespace pocketvlm {
namespace {

constexpr const char* kProjectors[] = {"resampler", "mlp", "ldp", "ldpv2"};

TinyModel tiny(GgmlType type, const std::string& projector) {
  TinyModel model;
  model.type = type;
  model.projector = projector;
  return model;
}

}  // namespace

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const std::string path = as_file(bytes);
  const GgufFile file(path);
  file.check_finite();

  SessionOptions options;
  options.threads = 1;
  options.kernels = "scalar";
  options.context = 64;
  MobileSampling sampling;
  sampling.max_new_tokens = 2;
  Chat chat;
  if (file.get_string_or("general.architecture", "") == "clip") {
    // A sound language model that fits the projector, where the file names one.
    static std::map<std::string, TinyFiles> sound;
    if (sound.empty())
      for (const char* projector : kProjectors) sound[projector] = write_tiny_model(tiny(GgmlType::kQ8_0, projector));
    const auto fitting = sound.find(file.get_string_or("clip.projector_type", ""));
    const std::string& language = (fitting == sound.end() ? sound.begin() : fitting)->second.language;
    chat.images.emplace_back(20, 12);
    chat.turns.push_back({"user", "<image>\nwhat is this?"});
    Session(language, path, options).chat(chat, sampling);
  } else {
    chat.turns.push_back({"user", "what is this?"});
    Session(path, "", options).chat(chat, sampling);
  }
}

void write_seeds(const std::filesystem::path& folder) {
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kF16}) {
    const TinyFiles files = write_tiny_model(tiny(type, "resampler"));
    std::filesystem::copy_file(files.language, folder / ("language-" + std::to_string(static_cast<int>(type))));
  }
  for (const char* projector : kProjectors) {
    const TinyFiles files = write_tiny_model(tiny(GgmlType::kQ8_0, projector));
    std::filesystem::copy_file(files.mmproj, folder / projector);
  }
}

}  // namespace pocketvlm
