#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/record_pictures.h"

namespace pocketvlm {

/// The frames that stand for the video of a record, in order, as names for a PictureReader; nothing
/// when it has none. What a record may say: see read_pictures. Throws DamagedSample.
std::optional<std::vector<std::string>> read_video(const Json& record,
                                                   const SamplePlace& place,
                                                   const FrameLister& list_frames);

/// Puts one "<image>" a frame, on lines of their own, where the one mark of the video stands
/// ("<video>" or "<image>") in the user turns; without a mark the turns stay as they are. Throws
/// DamagedSample when there are several marks, or one elsewhere.
void place_frames(std::vector<Turn>& turns, std::size_t num_frames, const SamplePlace& place);

}  // namespace pocketvlm
