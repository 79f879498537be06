#pragma once

#include <string>

#include "base/json.h"

namespace pocketvlm {

/// Where the picture of a row is: a path, or the picture itself in base64.
struct PictureField {
  std::string path, encoded;  // one of the two; both empty: the row names none
};

/// Reads "image_path" (always a path) or "image" of RLAIF-V's rows: a path, base64, or {"bytes", "path"}. Text of more than
/// 100 characters is base64, as there, unless it holds a character that base64 does not have, such as the dot of a name.
/// "path" stands with "bytes" only as the picture's name. Throws Error naming `where` when the field is of another kind.
PictureField picture_field(const Json& row, const std::string& where);

}  // namespace pocketvlm
