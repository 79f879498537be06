#include "data/conversations.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <utility>

namespace pocketvlm {
namespace {

bool ends_with_ignoring_case(std::string_view text, std::string_view ending) {
  if (text.size() < ending.size()) return false;
  return std::equal(ending.begin(),
                    ending.end(),
                    text.end() - static_cast<std::ptrdiff_t>(ending.size()),
                    [](char a, char b) {
                      return std::tolower(static_cast<unsigned char>(a)) ==
                             std::tolower(static_cast<unsigned char>(b));
                    });
}

}  // namespace

ConversationSource::ConversationSource(const std::string& path, const DecodeOptions& decode, const IndexOptions& index)
    : file_(path,
            ends_with_ignoring_case(path, ".jsonl") ? RecordFile::Form::kLines
                                                    : RecordFile::Form::kJsonList,
            index),
      folder_(std::filesystem::path(path).parent_path().string()),
      decode_(decode) {}

Sample ConversationSource::read(std::int64_t index, const DecodeOptions& decode) const {
  const SamplePlace place{name(), file_.place(index)};
  const Json record = parse_record(file_.record(index), place);
  return read_conversation(
      record,
      place,
      fmt::format("#{}", index),
      [&](const std::string& picture) { return load_picture(folder_, picture, place, decode); },
      /*implied_picture=*/{},
      [&](const std::string& frames) { return list_frame_files(folder_, frames, place); });
}

TextSource::TextSource(const std::string& path, const IndexOptions& index)
    : file_(path, RecordFile::Form::kLines, index), is_jsonl_(ends_with_ignoring_case(path, ".jsonl")) {}

Sample TextSource::at(std::int64_t index) const {
  const SamplePlace place{name(), file_.place(index)};
  std::string id = fmt::format("#{}", index);
  if (!is_jsonl_) {
    const std::string_view line = file_.record(index);
    if (!is_utf8(line))
      place.damaged("invalid UTF-8", "the line is not encoded in UTF-8; convert the file");
    return text_sample(std::string(line), std::move(id), place);
  }
  return read_document(parse_record(file_.record(index), place), place, id);
}

}  // namespace pocketvlm
