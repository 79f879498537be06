#include <webp/decode.h>

#include <cstring>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

std::uint32_t little_endian(FileBytes bytes, std::size_t place, int count) {
  std::uint32_t value = 0;
  for (int i = 0; i < count; ++i) {
    value |= static_cast<std::uint32_t>(bytes[place + i]) << (8 * i);
  }
  return value;
}

const char* reason(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "the data end early";
    case VP8_STATUS_BITSTREAM_ERROR:
      return "bad bit stream";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "unsupported feature";
    case VP8_STATUS_OUT_OF_MEMORY:
      return "out of memory";
    default:
      return "bad structure";
  }
}

[[noreturn]] void damaged(const std::string& where, const char* what) {
  fail("{}: damaged or truncated WebP ({}); fetch it again or remove it", where, what);
}

const std::uint8_t* raw(FileBytes bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

/// Where the first frame of an animation stands on its canvas.
struct Frame {
  std::int64_t x, y, width, height;
  FileBytes payload;  // its ALPH and VP8 or VP8L chunks
};

/// WebP container, section "Animation": ANMF holds x/2, y/2, width-1, height-1 (24 bits each),
/// duration, flags, then the frame's own chunks.
std::optional<Frame> first_frame(FileBytes riff) {
  constexpr std::size_t kFrameHeader = 16;
  std::size_t place = 12;
  while (riff.size() - place >= 8) {
    const std::string_view name(reinterpret_cast<const char*>(&riff[place]), 4);
    const std::size_t size = little_endian(riff, place + 4, 4);
    place += 8;
    if (size > riff.size() - place) return std::nullopt;
    if (name == "ANMF") {
      if (size < kFrameHeader) return std::nullopt;
      return Frame{2 * std::int64_t{little_endian(riff, place, 3)},
                   2 * std::int64_t{little_endian(riff, place + 3, 3)},
                   1 + std::int64_t{little_endian(riff, place + 6, 3)},
                   1 + std::int64_t{little_endian(riff, place + 9, 3)},
                   riff.subspan(place + kFrameHeader, size - kFrameHeader)};
    }
    const std::size_t padded = size + size % 2;
    if (padded > riff.size() - place) return std::nullopt;
    place += padded;
  }
  return std::nullopt;
}

/// Decodes one still picture or frame into `image` with its upper left corner at (x, y).
void decode_into(
    FileBytes bytes, std::int64_t x, std::int64_t y, Image& image, const std::string& where) {
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0) fail("{}: the WebP library has another ABI", where);
  const int stride = image.width * 3;
  std::uint8_t* first = image.at(static_cast<int>(x), static_cast<int>(y));
  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = first;
  config.output.u.RGBA.stride = stride;
  config.output.u.RGBA.size = image.rgb.size() - (first - image.rgb.data());
  const VP8StatusCode status = WebPDecode(raw(bytes), bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  if (status != VP8_STATUS_OK) damaged(where, reason(status));
}

}  // namespace

Image decode_webp(FileBytes file, const std::string& where, const DecodeOptions& options) {
  WebPBitstreamFeatures features;
  const VP8StatusCode status = WebPGetFeatures(raw(file), file.size(), &features);
  if (status != VP8_STATUS_OK) damaged(where, reason(status));
  check_image_size(features.width, features.height, where, options);
  const std::size_t riff_size = std::size_t{little_endian(file, 4, 4)} + 8;
  if (riff_size > file.size()) damaged(where, "the file ends early");

  if (features.has_animation == 0) {
    if (options.size_only) return Image::outline(features.width, features.height);
    Image image(features.width, features.height);
    decode_into(file, 0, 0, image, where);
    return image;
  }
  const auto frame = first_frame(file.first(riff_size));
  if (!frame) damaged(where, "no whole first frame");
  WebPBitstreamFeatures inner;
  const VP8StatusCode inner_status =
      WebPGetFeatures(raw(frame->payload), frame->payload.size(), &inner);
  if (inner_status != VP8_STATUS_OK) damaged(where, reason(inner_status));
  if (inner.width != frame->width || inner.height != frame->height ||
      frame->x + frame->width > features.width || frame->y + frame->height > features.height) {
    damaged(where, "the first frame does not fit the canvas");
  }
  if (options.size_only) return Image::outline(features.width, features.height);
  Image image(features.width, features.height);  // black where the frame does not reach
  decode_into(frame->payload, frame->x, frame->y, image, where);
  return image;
}

}  // namespace pocketvlm
