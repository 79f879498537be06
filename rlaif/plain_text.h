#pragma once

#include <string>

namespace pocketvlm {

/// What a model wrote, for use inside a prompt: image marks are taken out, for they would place a picture there, or ask for one
/// that the chat does not have.
std::string without_image_marks(std::string text);

}  // namespace pocketvlm
