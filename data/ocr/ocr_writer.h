#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "data/ocr/ocr_painter.h"

namespace pocketvlm {

struct OcrOutput {
  std::string folder;
  std::int64_t count = 0;       // pictures
  bool as_tar = false;          // shards instead of data.json and images/
  int threads = 1;
  std::int64_t shard_size = 1000;  // pictures of a shard; so many are made again at most after a kill
};

/// Writes training data for reading: FOLDER/data.json and FOLDER/images/*.jpg (LLaVA / MiniCPM-V conversations), or
/// FOLDER/shard-*.tar; FOLDER/truth.jsonl (one line a picture: {"id", "image", "size", "lines": [{"text", "quad", "font",
/// "font_pixels"}]}) and FOLDER/ocr.json (settings, and which lines of the text are not drawn). Same settings, same bytes, whatever
/// the number of threads, and however often the process was killed: a second call continues. Throws Error when the folder was begun
/// with other settings.
void write_ocr(const OcrPainter& painter, std::uint64_t seed, const OcrOutput& output);

/// {"drawn": lines of the text, "left_out": n, "reasons": {reason: n}, "listed": [{"line", "reason", "detail"}]}: the first 1000.
Json unused_lines_json(const TextLines& text);

}  // namespace pocketvlm
