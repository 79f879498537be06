#include "rlaif/rlaifv_rows.h"

#include "base/base64.h"
#include "base/files.h"
#include "base/json.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  const PairFile file(as_file(bytes));
  for (const PreferencePair& pair : file.pairs()) {
    const Image image = file.picture(pair.index);
    if (image.rgb.size() != static_cast<std::size_t>(image.width) * image.height * 3) __builtin_trap();
  }
}

void write_seeds(const std::filesystem::path& folder) {
  // Longer than a path may be: a row holds either.
  const std::string picture = encode_base64(encode_png(Image(200, 100)));
  const Json row = {{"question", "what is it?"}, {"chosen", "a cat"}, {"rejected", "a dog and a hat"}};
  const auto with = [&](const Json& more) {
    Json changed = row;
    changed.update(more);
    return changed.dump() + "\n";
  };
  write_file_atomic(folder / "loop", with({{"ds_question_id", "q1"}, {"image_path", TEST_DATA "/data/preprocess/images/grey8.png"}}));
  write_file_atomic(folder / "release", with({{"idx", 7}, {"image", picture}}) + with({{"idx", 8}, {"image", {{"bytes", picture}, {"path", "a.png"}}}}));
}

}  // namespace pocketvlm
