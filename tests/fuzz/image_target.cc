#include "data/preprocess/image.h"

#include "base/files.h"
#include "tests/fuzz/target.h"

namespace pocketvlm {

const bool kDamageIsNoticed = true;

void read_hostile(std::span<const std::byte> bytes) {
  DecodeOptions options;
  options.max_megapixels = 1;
  options.apply_exif = true;
  const Image outline = decode_image(bytes, "fuzz", options.for_sizes());
  const Image image = decode_image(bytes, "fuzz", options);
  if (image.width != outline.width || image.height != outline.height) __builtin_trap();
  if (image.rgb.size() != static_cast<std::size_t>(image.width) * image.height * 3) __builtin_trap();
}

void write_seeds(const std::filesystem::path& folder) {
  // Files of every format and kind that Pillow made for the decoder's own tests.
  for (const auto& entry : std::filesystem::directory_iterator(TEST_DATA "/data/preprocess/images"))
    if (entry.file_size() < 16384) std::filesystem::copy_file(entry.path(), folder / entry.path().filename());
}

}  // namespace pocketvlm
