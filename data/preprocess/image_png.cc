#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "base/error.h"
#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

/// What libpng's callbacks see. Errors jump back to guarded(); between the two lie only C frames
/// and functions whose variables have no destructors.
struct PngStream {
  FileBytes file;
  std::size_t place = 0;
  std::string* written = nullptr;
  char message[256] = "";
};

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto* stream = static_cast<PngStream*>(png_get_error_ptr(png));
  std::snprintf(stream->message, sizeof stream->message, "%s", text);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep to, std::size_t count) {
  auto* stream = static_cast<PngStream*>(png_get_io_ptr(png));
  if (count > stream->file.size() - stream->place) png_error(png, "the file ends early");
  std::memcpy(to, stream->file.data() + stream->place, count);
  stream->place += count;
}

void write_bytes(png_structp png, png_bytep from, std::size_t count) {
  bool fits = true;
  try {
    static_cast<PngStream*>(png_get_io_ptr(png))
        ->written->append(reinterpret_cast<const char*>(from), count);
  } catch (const std::bad_alloc&) {
    fits = false;
  }
  if (!fits) png_error(png, "out of memory");
}

void flush_bytes(png_structp) {}

/// Runs `work`; false when libpng gave up, with the reason in the stream's message.
template <typename Work>
bool guarded(png_structp png, const Work& work) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  work();
  return true;
}

/// Releases libpng's memory on every way out.
struct PngReader {
  PngStream stream;
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit PngReader(FileBytes file) {
    stream.file = file;
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &stream, on_error, on_warning);
    if (png != nullptr) info = png_create_info_struct(png);
    if (info == nullptr) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      throw std::bad_alloc();
    }
    png_set_read_fn(png, &stream, read_bytes);
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

struct PngWriter {
  PngStream stream;
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit PngWriter(std::string& written) {
    stream.written = &written;
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &stream, on_error, on_warning);
    if (png != nullptr) info = png_create_info_struct(png);
    if (info == nullptr) {
      png_destroy_write_struct(&png, nullptr);
      throw std::bad_alloc();
    }
    png_set_write_fn(png, &stream, write_bytes, flush_bytes);
  }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;
  ~PngWriter() { png_destroy_write_struct(&png, &info); }
};

void read_header(PngReader& reader) {
  png_structp png = reader.png;
  // Our own limit is in megapixels, and chunks that carry no pixels are skipped without taking
  // memory, so that libpng's limits would only refuse what is harmless.
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_chunk_malloc_max(png, PNG_UINT_31_MAX);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_read_info(png, reader.info);
}

/// Palette numbers and 16-bit grey are read raw and turned into RGB by us, because libpng's own
/// conversions differ from Pillow's; everything else comes out of libpng as RGB.
void choose_conversion(PngReader& reader, bool is_raw) {
  png_structp png = reader.png;
  const int depth = png_get_bit_depth(png, reader.info);
  const int color_type = png_get_color_type(png, reader.info);
  if (color_type == PNG_COLOR_TYPE_PALETTE) png_set_packing(png);
  if (is_raw) return;
  if (depth == 16) png_set_strip_16(png);  // keeps the high byte
  if (color_type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if ((color_type & PNG_COLOR_MASK_ALPHA) != 0) png_set_strip_alpha(png);
  if ((color_type & PNG_COLOR_MASK_COLOR) == 0) png_set_gray_to_rgb(png);
}

void read_rows(PngReader& reader, std::uint8_t* rows, std::size_t row_bytes, int height) {
  const int passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  if (png_get_rowbytes(reader.png, reader.info) != row_bytes) {
    png_error(reader.png, "unexpected row size");
  }
  for (int pass = 0; pass < passes; ++pass) {
    for (int y = 0; y < height; ++y) png_read_row(reader.png, rows + y * row_bytes, nullptr);
  }
  png_read_end(reader.png, nullptr);
}

/// Numbers beyond the palette are black, as in Pillow.
void palette_to_rgb(const PngReader& reader,
                    const std::vector<std::uint8_t>& numbers,
                    std::vector<std::uint8_t>& rgb) {
  std::uint8_t table[256][3] = {};
  png_colorp palette = nullptr;
  int size = 0;
  png_get_PLTE(reader.png, reader.info, &palette, &size);
  for (int i = 0; i < size && i < 256; ++i) {
    table[i][0] = palette[i].red;
    table[i][1] = palette[i].green;
    table[i][2] = palette[i].blue;
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) std::memcpy(&rgb[i * 3], table[numbers[i]], 3);
}

/// Pillow clips 16-bit grey at 255 instead of scaling it.
void grey_16_to_rgb(const std::vector<std::uint8_t>& big_endian, std::vector<std::uint8_t>& rgb) {
  for (std::size_t i = 0; i < big_endian.size() / 2; ++i) {
    const std::uint8_t value = big_endian[2 * i] != 0 ? 255 : big_endian[2 * i + 1];
    std::memset(&rgb[i * 3], value, 3);
  }
}

[[noreturn]] void damaged(const std::string& where, const PngReader& reader) {
  fail("{}: damaged or truncated PNG ({}); fetch it again or remove it",
       where,
       reader.stream.message);
}

}  // namespace

Image decode_png(FileBytes file, const std::string& where, const DecodeOptions& options) {
  PngReader reader(file);
  if (!guarded(reader.png, [&] { read_header(reader); })) damaged(where, reader);
  const std::int64_t width = png_get_image_width(reader.png, reader.info);
  const std::int64_t height = png_get_image_height(reader.png, reader.info);
  check_image_size(width, height, where, options);
  if (options.size_only) return Image::outline(static_cast<int>(width), static_cast<int>(height));

  const int color_type = png_get_color_type(reader.png, reader.info);
  const bool is_palette = color_type == PNG_COLOR_TYPE_PALETTE;
  const bool is_grey_16 =
      color_type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(reader.png, reader.info) == 16;
  const std::size_t row_bytes = static_cast<std::size_t>(width) * (is_palette   ? 1
                                                                   : is_grey_16 ? 2
                                                                                : 3);
  Image image(static_cast<int>(width), static_cast<int>(height));
  std::vector<std::uint8_t> raw(is_palette || is_grey_16 ? row_bytes * height : 0);
  std::uint8_t* rows = raw.empty() ? image.rgb.data() : raw.data();
  const bool is_whole = guarded(reader.png, [&] {
    choose_conversion(reader, is_palette || is_grey_16);
    read_rows(reader, rows, row_bytes, image.height);
  });
  if (!is_whole) damaged(where, reader);
  if (is_palette) palette_to_rgb(reader, raw, image.rgb);
  if (is_grey_16) grey_16_to_rgb(raw, image.rgb);
  return image;
}

std::string encode_png(const Image& image) {
  PV_CHECK(image.width > 0 && image.height > 0,
           "a PNG cannot hold {} x {} pixels",
           image.width,
           image.height);
  std::string bytes;
  PngWriter writer(bytes);
  const bool is_whole = guarded(writer.png, [&] {
    png_set_user_limits(writer.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_IHDR(writer.png,
                 writer.info,
                 static_cast<png_uint_32>(image.width),
                 static_cast<png_uint_32>(image.height),
                 8,
                 PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    // Written out, so that another libpng build with other defaults gives the same bytes.
    png_set_filter(writer.png, PNG_FILTER_TYPE_BASE, PNG_ALL_FILTERS);
    png_set_compression_level(writer.png, 6);
    png_write_info(writer.png, writer.info);
    for (int y = 0; y < image.height; ++y) png_write_row(writer.png, image.at(0, y));
    png_write_end(writer.png, nullptr);
  });
  PV_CHECK(is_whole, "the PNG encoder failed: {}", writer.stream.message);
  return bytes;
}

}  // namespace pocketvlm
