#include "data/preprocess/image.h"

#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

std::string first_bytes(FileBytes file) {
  std::string text;
  for (std::size_t i = 0; i < file.size() && i < 8; ++i) {
    text += fmt::format("{}{:02x}", i == 0 ? "" : " ", static_cast<unsigned>(file[i]));
  }
  return text;
}

Image decode_pixels(FileBytes file, const std::string& where, const DecodeOptions& options) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("\xff\xd8\xff")) return decode_jpeg(file, where, options);
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file, where, options);
  if (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP")) {
    return decode_webp(file, where, options);
  }
  if (text.starts_with("GIF87a") || text.starts_with("GIF89a")) {
    return decode_gif(file, where, options);
  }
  PV_CHECK(!file.empty(), "{}: the image file is empty; fetch it again or remove it", where);
  fail("{}: neither JPEG, PNG, WebP nor GIF (starts with the bytes {}); convert it to one of them",
       where,
       first_bytes(file));
}

}  // namespace

void check_image_size(std::int64_t width,
                      std::int64_t height,
                      const std::string& where,
                      const DecodeOptions& options) {
  PV_CHECK(width > 0 && height > 0,
           "{}: the header says {} x {} pixels; the image is empty or damaged",
           where,
           width,
           height);
  const double megapixels = static_cast<double>(width) * static_cast<double>(height) / 1e6;
  PV_CHECK(megapixels <= options.max_megapixels,
           "{}: {} x {} pixels are {:.6g} megapixels, above max_megapixels = {:.6g}; shrink the "
           "image or raise max_megapixels",
           where,
           width,
           height,
           megapixels,
           options.max_megapixels);
}

Image decode_image(std::span<const std::byte> bytes,
                   const std::string& where,
                   const DecodeOptions& options) {
  Image image = decode_pixels(bytes, where, options);
  return options.apply_exif ? upright(std::move(image), exif_orientation(bytes)) : image;
}

Image load_image(const std::string& path, const DecodeOptions& options) {
  // Read, not mapped: a file that shrinks while it is mapped ends the process with SIGBUS.
  const std::string bytes = read_file(path);
  return decode_image(std::as_bytes(std::span(bytes)), path, options);
}

}  // namespace pocketvlm
