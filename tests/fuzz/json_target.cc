#include "base/json.h"

#include "base/config.h"
#include "base/files.h"
#include "data/preprocess/image_processor.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const Json json = parse_json(text, "fuzz");
  if (parse_json(json.dump(), "fuzz again") != json) __builtin_trap();
  read_config<ImageConfig>(json, "fuzz");
}

void write_seeds(const std::filesystem::path& folder) {
  write_file_atomic(folder / "image_config", config_to_json(ImageConfig{}).dump());
}

}  // namespace pocketvlm
