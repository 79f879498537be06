#pragma once

#include <cstdint>
#include <string>

#include "data/conversation_record.h"
#include "data/record_file.h"

namespace pocketvlm {

/// A file of conversations: a JSON list, or JSONL where the name ends in .jsonl. Pictures are
/// relative to it. What a record may hold is said at read_conversation.
class ConversationSource : public SampleSource {
 public:
  /// Throws Error when the file cannot be read or is not JSON.
  explicit ConversationSource(const std::string& path, const DecodeOptions& decode = {}, const IndexOptions& index = {});
  std::int64_t size() const override { return file_.size(); }
  Sample at(std::int64_t index) const override { return read(index, decode_); }
  Sample outline(std::int64_t index) const override { return read(index, decode_.for_sizes()); }
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override { return file_.place(index); }

 private:
  Sample read(std::int64_t index, const DecodeOptions& decode) const;

  RecordFile file_;
  std::string folder_;
  DecodeOptions decode_;
};

/// Documents without pictures: one a line; in .jsonl, the "text" of each record.
class TextSource : public SampleSource {
 public:
  explicit TextSource(const std::string& path, const IndexOptions& index = {});
  std::int64_t size() const override { return file_.size(); }
  Sample at(std::int64_t index) const override;
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override { return file_.place(index); }

 private:
  RecordFile file_;
  bool is_jsonl_;
};

}  // namespace pocketvlm
