#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/preprocess/image.h"
#include "data/sample.h"

namespace pocketvlm {

/// Decodes the picture that a record calls `name`, or gives its outline.
using PictureReader = std::function<Image(const std::string& name)>;

/// The pictures that a record names: by mark ("<image_00>") in MiniCPM-V's map form, in order
/// otherwise.
struct RecordPictures {
  bool by_mark = false;
  std::vector<std::pair<std::string, std::string>>
      entries;  // mark (empty in the other forms), name
};

/// Reads "image" of a record: a path, a list of paths, or a map from marks to paths. `implied`:
/// used when the record names none; empty: none. Throws DamagedSample.
RecordPictures read_pictures(const Json& record,
                             const SamplePlace& place,
                             const std::string& implied);

/// The names of the pictures in the order of their marks in the user turns; named marks become
/// "<image>". Throws DamagedSample when marks and pictures do not belong together.
std::vector<std::string> place_pictures(std::vector<Turn>& turns,
                                        const RecordPictures& pictures,
                                        const SamplePlace& place);

/// Decodes a picture of a sample. Throws DamagedSample: not an image, too large, or damaged.
Image decode_picture(std::span<const std::byte> bytes,
                     const std::string& name,
                     const SamplePlace& place,
                     const DecodeOptions& options);

/// Reads a picture file, `name` relative to `folder`. Throws DamagedSample.
Image load_picture(const std::string& folder,
                   const std::string& name,
                   const SamplePlace& place,
                   const DecodeOptions& options);

}  // namespace pocketvlm
