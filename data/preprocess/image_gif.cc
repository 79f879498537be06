#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "data/preprocess/image_formats.h"

namespace pocketvlm {
namespace {

struct GifStream {
  FileBytes file;
  std::size_t place = 0;
};

int read_bytes(GifFileType* gif, GifByteType* to, int count) {
  auto* stream = static_cast<GifStream*>(gif->UserData);
  const std::size_t size =
      std::min(static_cast<std::size_t>(count), stream->file.size() - stream->place);
  if (size > 0) std::memcpy(to, stream->file.data() + stream->place, size);
  stream->place += size;
  return static_cast<int>(size);
}

[[noreturn]] void damaged(const std::string& where, int code) {
  const char* reason = GifErrorString(code);
  fail("{}: damaged or truncated GIF ({}); fetch it again or remove it",
       where,
       reason != nullptr ? reason : "no image in it");
}

/// Closes the library's state on every way out.
struct GifReader {
  GifStream stream;
  GifFileType* gif = nullptr;

  GifReader(FileBytes file, const std::string& where) : stream{file} {
    int code = 0;
    gif = DGifOpen(&stream, read_bytes, &code);
    if (gif == nullptr) damaged(where, code);
  }
  GifReader(const GifReader&) = delete;
  GifReader& operator=(const GifReader&) = delete;
  ~GifReader() { DGifCloseFile(gif, nullptr); }
};

/// Moves to the first image; returns the transparent palette number in force there, -1 for none.
int find_first_image(GifReader& reader, const std::string& where) {
  GifFileType* gif = reader.gif;
  int transparent = -1;
  while (true) {
    GifRecordType record;
    if (DGifGetRecordType(gif, &record) == GIF_ERROR) damaged(where, gif->Error);
    if (record == IMAGE_DESC_RECORD_TYPE) return transparent;
    if (record == TERMINATE_RECORD_TYPE) damaged(where, D_GIF_ERR_NO_IMAG_DSCR);
    if (record != EXTENSION_RECORD_TYPE) continue;
    int code = 0;
    GifByteType* block = nullptr;
    int status = DGifGetExtension(gif, &code, &block);
    if (status == GIF_OK && block != nullptr && code == GRAPHICS_EXT_FUNC_CODE && block[0] >= 4 &&
        (block[1] & 1) != 0) {
      transparent = block[4];
    }
    while (status == GIF_OK && block != nullptr) status = DGifGetExtensionNext(gif, &block);
    if (status == GIF_ERROR) damaged(where, gif->Error);
  }
}

/// Palette number -> RGB. A palette that is the ramp 0, 1, 2... (or none at all) makes Pillow treat
/// the numbers as grey levels; numbers beyond another palette are black.
void fill_table(const ColorMapObject* map, std::uint8_t (&table)[256][3]) {
  bool is_ramp = true;
  for (int i = 0; map != nullptr && i < map->ColorCount; ++i) {
    const GifColorType& color = map->Colors[i];
    is_ramp = is_ramp && color.Red == i && color.Green == i && color.Blue == i;
  }
  for (int i = 0; i < 256; ++i) std::memset(table[i], is_ramp ? i : 0, 3);
  for (int i = 0; !is_ramp && i < map->ColorCount && i < 256; ++i) {
    table[i][0] = map->Colors[i].Red;
    table[i][1] = map->Colors[i].Green;
    table[i][2] = map->Colors[i].Blue;
  }
}

/// Rows in file order: top to bottom, or the four passes of an interlaced image.
std::vector<int> row_order(int height, bool interlaced) {
  std::vector<int> rows;
  rows.reserve(static_cast<std::size_t>(height));
  const int passes[][2] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
  for (const auto& [first, step] : passes) {
    if (!interlaced) break;
    for (int y = first; y < height; y += step) rows.push_back(y);
  }
  for (int y = 0; !interlaced && y < height; ++y) rows.push_back(y);
  return rows;
}

}  // namespace

Image decode_gif(FileBytes file, const std::string& where, const DecodeOptions& options) {
  GifReader reader(file, where);
  GifFileType* gif = reader.gif;
  const int transparent = find_first_image(reader, where);
  // The header alone (10 bytes) is read here; the library takes memory only for the palette.
  if (DGifGetImageDesc(gif) == GIF_ERROR) damaged(where, gif->Error);
  const GifImageDesc& frame = gif->Image;
  // A frame that reaches over the screen makes the image larger, as in Pillow.
  const int width = std::max(gif->SWidth, frame.Left + frame.Width);
  const int height = std::max(gif->SHeight, frame.Top + frame.Height);
  check_image_size(width, height, where, options);
  PV_CHECK(frame.Width > 0 && frame.Height > 0, "{}: the first GIF frame is empty", where);
  if (options.size_only) return Image::outline(width, height);

  std::uint8_t table[256][3];
  fill_table(frame.ColorMap != nullptr ? frame.ColorMap : gif->SColorMap, table);
  Image image(width, height);
  const std::uint8_t* background = table[transparent >= 0 ? transparent : 0];
  const bool is_covered = frame.Width == width && frame.Height == height;
  for (std::size_t i = 0; !is_covered && i < image.rgb.size(); i += 3) {
    std::memcpy(&image.rgb[i], background, 3);
  }
  std::vector<GifPixelType> numbers(static_cast<std::size_t>(frame.Width));
  for (const int y : row_order(frame.Height, frame.Interlace)) {
    if (DGifGetLine(gif, numbers.data(), frame.Width) == GIF_ERROR) damaged(where, gif->Error);
    std::uint8_t* rgb = image.at(frame.Left, frame.Top + y);
    for (int x = 0; x < frame.Width; ++x) std::memcpy(rgb + 3 * x, table[numbers[x]], 3);
  }
  return image;
}

}  // namespace pocketvlm
