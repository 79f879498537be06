#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "data/preprocess/image.h"
#include "data/record_file.h"
#include "data/sample.h"

namespace pocketvlm {

/// Where a sample stands, for the errors about it.
struct SamplePlace {
  std::string file;
  std::string place;
  /// Throws DamagedSample.
  [[noreturn]] void damaged(const std::string& reason, const std::string& detail) const;
};

/// Decodes the picture that a record calls `name`.
using PictureReader = std::function<Image(const std::string& name)>;

/// One record of LLaVA's or MiniCPM-V's training data:
///   {"id", "image": path | [paths] | {"<image_00>": path, ...},
///    "conversations": [{"from": "human" | "gpt", "value"} or {"role": "user" | "assistant", "content"}, ...]}
/// or a document {"id", "text"}. A system turn may come first; user and assistant turns alternate, the user
/// begins. Each "<image>" in a user turn is the next picture; without any mark pictures go before the first
/// user content. Named marks become "<image>" on a line of their own, as the released chat code joins them.
/// `implied_picture`: the name of the picture when the record names none (tar shards); empty: none.
/// "task" and "language" are read when present; further keys are ignored.
/// Throws DamagedSample.
Sample read_conversation(const Json& record,
                         const SamplePlace& place,
                         const std::string& default_id,
                         const PictureReader& read_picture,
                         const std::string& implied_picture = {});

/// Parses one record: invalid UTF-8 and invalid JSON are told apart. Throws DamagedSample.
Json parse_record(std::string_view text, const SamplePlace& place);

/// Decodes a picture of a sample. Throws DamagedSample: not an image, too large, or damaged.
Image decode_picture(std::span<const std::byte> bytes,
                     const std::string& name,
                     const SamplePlace& place,
                     const DecodeOptions& options);

/// A file of conversations: a JSON list, or JSONL where the name ends in .jsonl. Pictures are relative to it.
class ConversationSource : public SampleSource {
 public:
  explicit ConversationSource(const std::string& path, const DecodeOptions& decode = {});
  std::int64_t size() const override { return file_.size(); }
  Sample at(std::int64_t index) const override;
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override { return file_.place(index); }

 private:
  RecordFile file_;
  std::string folder_;
  DecodeOptions decode_;
};

/// Documents without pictures: one a line; in .jsonl, the "text" of each record.
class TextSource : public SampleSource {
 public:
  explicit TextSource(const std::string& path);
  std::int64_t size() const override { return file_.size(); }
  Sample at(std::int64_t index) const override;
  std::string name() const override { return file_.path(); }
  std::string place(std::int64_t index) const override { return file_.place(index); }

 private:
  RecordFile file_;
  bool is_jsonl_;
};

/// Throws DamagedSample when there is nothing in the sample to learn: no assistant turn.
void check_has_answer(const Sample& sample, const SamplePlace& place);

}  // namespace pocketvlm
