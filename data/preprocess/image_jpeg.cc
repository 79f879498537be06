#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

// jpeglib.h needs FILE and size_t from above, jerror.h needs jpeglib.h.
// clang-format off
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "base/error.h"
#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

/// libjpeg reports errors by a call that must not return. Ours jumps back to guarded(); between the
/// two lie only C frames and functions whose variables have no destructors.
struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void jump_back(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  info->err->format_message(info, errors->message);
  std::longjmp(errors->back, 1);
}

/// After these warnings libjpeg goes on with grey or garbled pixels. The others (bytes between
/// markers, odd header fields) leave every pixel right.
bool damages_pixels(int code) {
  switch (code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_BOGUS_PROGRESSION:
      return true;
    default:
      return false;
  }
}

void on_message(j_common_ptr info, int level) {
  if (level < 0 && damages_pixels(info->err->msg_code)) jump_back(info);
}

void no_output(j_common_ptr) {}

void install(JpegErrors& errors) {
  jpeg_std_error(&errors.base);
  errors.base.error_exit = jump_back;
  errors.base.emit_message = on_message;
  errors.base.output_message = no_output;
  errors.message[0] = '\0';
}

/// Runs `work`; false when libjpeg gave up, with the reason in errors.message.
template <typename Work>
bool guarded(JpegErrors& errors, const Work& work) {
  if (setjmp(errors.back) != 0) return false;
  work();
  return true;
}

// Each scan of a progressive file costs a pass over the whole image: a small file with thousands
// of scans would hold a loader for hours. Encoders write about ten.
constexpr int kMaxScans = 500;

void count_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    ERREXIT(info, JERR_BAD_PROGRESSION);
  }
}

/// Releases libjpeg's memory on every way out.
struct JpegReader {
  jpeg_decompress_struct info{};
  jpeg_progress_mgr progress{};
  JpegErrors errors{};

  JpegReader() {
    install(errors);
    info.err = &errors.base;
    progress.progress_monitor = count_scans;
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info); }
};

struct JpegWriter {
  jpeg_compress_struct info{};
  JpegErrors errors{};
  unsigned char* bytes = nullptr;
  unsigned long size = 0;

  JpegWriter() {
    install(errors);
    info.err = &errors.base;
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;
  ~JpegWriter() {
    jpeg_destroy_compress(&info);
    std::free(bytes);
  }
};

/// a * b / 255, rounded as Pillow's integer arithmetic does it.
int multiply_255(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// Adobe stores ink inverted (255 = none) and Pillow takes every four-component JPEG that way.
void inverted_cmyk_to_rgb(const std::uint8_t* cmyk, int width, std::uint8_t* rgb) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const int light = cmyk[3];
    for (int channel = 0; channel < 3; ++channel) {
      rgb[channel] = static_cast<std::uint8_t>(light - multiply_255(255 - cmyk[channel], light));
    }
  }
}

[[noreturn]] void damaged(const std::string& where, const JpegErrors& errors) {
  fail("{}: damaged or truncated JPEG ({}); fetch it again or remove it", where, errors.message);
}

}  // namespace

Image decode_jpeg(FileBytes file, const std::string& where, const DecodeOptions& options) {
  JpegReader reader;
  jpeg_decompress_struct& info = reader.info;
  const bool has_header = guarded(reader.errors, [&] {
    jpeg_create_decompress(&info);
    info.progress = &reader.progress;
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_read_header(&info, TRUE);
  });
  if (!has_header) damaged(where, reader.errors);
  check_image_size(info.image_width, info.image_height, where, options);
  const bool is_cmyk = info.num_components == 4;
  PV_CHECK(is_cmyk || info.num_components == 1 || info.num_components == 3,
           "{}: a JPEG with {} colour components is neither grey, colour nor CMYK; convert it",
           where,
           info.num_components);

  const int width = static_cast<int>(info.image_width), height = static_cast<int>(info.image_height);
  if (options.size_only) return Image::outline(width, height);

  Image image(width, height);
  std::vector<std::uint8_t> cmyk(is_cmyk ? static_cast<std::size_t>(image.width) * 4 : 0);
  const bool is_whole = guarded(reader.errors, [&] {
    info.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&info);
    while (info.output_scanline < info.output_height) {
      std::uint8_t* rgb = image.at(0, static_cast<int>(info.output_scanline));
      JSAMPROW row = is_cmyk ? cmyk.data() : rgb;
      jpeg_read_scanlines(&info, &row, 1);
      if (is_cmyk) inverted_cmyk_to_rgb(cmyk.data(), image.width, rgb);
    }
    jpeg_finish_decompress(&info);
  });
  if (!is_whole) damaged(where, reader.errors);
  return image;
}

std::string encode_jpeg(const Image& image, int quality) {
  PV_CHECK(quality >= 1 && quality <= 100, "JPEG quality {} is outside 1..100", quality);
  PV_CHECK(image.width > 0 && image.height > 0 && image.width <= JPEG_MAX_DIMENSION &&
               image.height <= JPEG_MAX_DIMENSION,
           "a JPEG cannot hold {} x {} pixels (1..{} each); use PNG",
           image.width,
           image.height,
           JPEG_MAX_DIMENSION);
  JpegWriter writer;
  jpeg_compress_struct& info = writer.info;
  const bool is_whole = guarded(writer.errors, [&] {
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &writer.bytes, &writer.size);
    info.image_width = static_cast<JDIMENSION>(image.width);
    info.image_height = static_cast<JDIMENSION>(image.height);
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);  // YCbCr 4:2:0
    jpeg_set_quality(&info, quality, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
      JSAMPROW row = const_cast<std::uint8_t*>(image.at(0, static_cast<int>(info.next_scanline)));
      jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
  });
  PV_CHECK(is_whole, "the JPEG encoder failed: {}", writer.errors.message);
  return std::string(reinterpret_cast<const char*>(writer.bytes), writer.size);
}

}  // namespace pocketvlm
