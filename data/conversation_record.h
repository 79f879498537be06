#pragma once

#include <string>
#include <string_view>

#include "data/record_pictures.h"
#include "data/sample.h"

namespace pocketvlm {

/// Parses one record: invalid UTF-8 and invalid JSON are told apart. Throws DamagedSample.
Json parse_record(std::string_view text, const SamplePlace& place);

/// One record of LLaVA's or MiniCPM-V's training data:
///   {"id", "image" or "images": path | [paths] | {"<image_00>": path, ...},
///          or "video": folder of frames | [frames], "video_fps": frames a second,
///    "conversations": [{"from": "human" | "gpt", "value"} or {"role": "user" | "assistant",
///                       "content"}, ...]}
/// or a document {"id", "text"}. A system turn may come first; user and assistant turns alternate,
/// the user begins. Each "<image>" in a user turn is the next picture; without any mark pictures go
/// before the first user content; the frames of a video stand at its one mark, "<video>" or "<image>".
/// Named marks become "<image>" on a line of their own, as the released chat code joins them.
/// `implied_picture`: the name of the picture when the record names none (tar shards); empty: none.
/// `list_frames`: the files of a folder of frames. "task" and "language" are read when present;
/// further keys are ignored. Throws DamagedSample.
Sample read_conversation(const Json& record,
                         const SamplePlace& place,
                         const std::string& default_id,
                         const PictureReader& read_picture,
                         const std::string& implied_picture,
                         const FrameLister& list_frames);

/// A document {"id", "text"}. Throws DamagedSample.
Sample read_document(const Json& record, const SamplePlace& place, const std::string& default_id);

/// A sample of plain text: one assistant turn, all of it to be learned. Throws DamagedSample when
/// blank.
Sample text_sample(std::string text, std::string id, const SamplePlace& place);

/// Throws DamagedSample when there is nothing in the sample to learn: no assistant turn.
void check_has_answer(const Sample& sample, const SamplePlace& place);

}  // namespace pocketvlm
