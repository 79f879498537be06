#include "apps/caption_rewriting.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "data/conversation_record.h"
#include "data/record_file.h"
#include "rlaif/content_key.h"
#include "rlaif/jsonl_log.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostListed = 1000;
constexpr const char* kPictureKeys[] = {"image", "images", "video", "videos"};

/// One record that is to be written.
struct Work {
  std::int64_t index = 0;
  std::string id, caption, key;
  bool is_video = false;
  std::size_t pictures = 0;
};

/// Paths relative to the data's folder become relative to the output's; addresses and whole paths stay.
Json moved(const Json& value, const fs::path& from, const fs::path& to) {
  if (value.is_string()) {
    const std::string& name = value.get_ref<const std::string&>();
    if (fs::path(name).is_absolute()) return value;
    return fs::proximate(from / name, to).string();
  }
  Json result = value;
  if (value.is_structured()) {
    for (Json& item : result) item = moved(item, from, to);
  }
  return result;
}

fs::path folder_of(const std::string& path) { return fs::absolute(fs::path(path)).lexically_normal().parent_path(); }

class Rewriter {
 public:
  Rewriter(const CaptionRewriting& wanted, const PromptAnswerer& answer)
      : wanted_(wanted),
        answer_(answer),
        file_(wanted.data, wanted.data.ends_with(".jsonl") ? RecordFile::Form::kLines : RecordFile::Form::kJsonList),
        rows_(wanted.out),
        failures_(wanted.out + ".failures.jsonl") {}

  Json run();

 private:
  Json record(std::int64_t index) const { return parse_record(file_.record(index), {file_.path(), file_.place(index)}); }
  std::optional<Work> work_of(std::int64_t index);
  void drop_torn_groups(const std::vector<Work>& work);
  void finish_group(const std::vector<Work>& group);
  Json row_of(const Work& work, const Json& record, const std::vector<QuestionAndAnswer>& pairs) const;
  Json original_of(const Work& work) const;
  Json report() const;

  const CaptionRewriting& wanted_;
  const PromptAnswerer& answer_;
  RecordFile file_;
  JsonlLog rows_, failures_;
  std::unordered_set<std::string> done_;    // keys of records of which all is written
  std::unordered_set<std::string> failed_;  // keys in the file of failures
  std::int64_t captions_ = 0;
};

/// What is to be done about a record; nothing when it is damaged.
std::optional<Work> Rewriter::work_of(std::int64_t index) {
  Work work;
  work.index = index;
  const SamplePlace place{file_.path(), file_.place(index)};
  try {
    const Json json = record(index);
    std::string names;
    const Sample sample = read_conversation(
        json,
        place,
        fmt::format("#{}", index),
        [&](const std::string& name) {
          names += name + "\n";
          return Image::outline(1, 1);
        },
        {},
        [&](const std::string& folder) { return std::vector<std::string>{folder}; });
    check_has_answer(sample, place);
    work.id = sample.id;
    work.is_video = sample.is_video;
    work.pictures = sample.chat.images.size();
    const auto& turns = sample.chat.turns;
    if (work.pictures > 0 && turns.size() == 2) work.caption = turns[1].content;
    work.key = content_key({work.id, names, work.caption.empty() ? json.dump() : work.caption, wanted_.prompt_template, wanted_.model});
    return work;
  } catch (const DamagedSample& e) {
    work.id = fmt::format("#{}", index);
    work.key = content_key({work.id, file_.record(index)});
    if (failed_.insert(work.key).second) {
      failures_.append({{{"key", work.key}, {"id", work.id}, {"place", e.place()}, {"reason", "damaged: " + e.reason()}, {"detail", e.detail()}}});
    }
    return std::nullopt;
  }
}

/// A group of which a part is written is asked again as a whole where that part ends the files.
void Rewriter::drop_torn_groups(const std::vector<Work>& work) {
  const auto size = static_cast<std::size_t>(wanted_.group);
  for (std::size_t begin = 0; begin < work.size(); begin += size) {
    std::set<std::string> keys;
    bool touched = false, whole = true;
    for (std::size_t i = begin; i < std::min(work.size(), begin + size); ++i) {
      const std::string& key = work[i].key;
      keys.insert(key);
      touched |= done_.contains(key) || failed_.contains(key);
      whole &= done_.contains(key);
    }
    if (!touched || whole) continue;
    const auto drop = [&](JsonlLog& log, std::unordered_set<std::string>& known) {
      while (!log.rows().empty() && keys.contains(log.rows().back().value("key", ""))) {
        const std::string key = log.rows().back()["key"].get<std::string>();
        known.erase(key);
        done_.erase(key);
        log.keep(log.rows().size() - 1);
      }
    };
    drop(failures_, failed_);
    drop(rows_, done_);
  }
}

Json Rewriter::row_of(const Work& work, const Json& record, const std::vector<QuestionAndAnswer>& pairs) const {
  Json conversations = Json::array();
  std::string marks;
  for (std::size_t i = 0; i < (work.is_video ? 1 : work.pictures); ++i) marks += work.is_video ? "<video>\n" : "<image>\n";
  for (const QuestionAndAnswer& pair : pairs) {
    conversations.push_back({{"from", "human"}, {"value", (conversations.empty() ? marks : "") + pair.question}});
    conversations.push_back({{"from", "gpt"}, {"value", pair.answer}});
  }
  Json row = {{"id", work.id}};
  for (const char* key : kPictureKeys) {
    if (!record.contains(key) || record[key].is_null()) continue;
    // Named marks are gone from the text: the pictures follow in their order.
    Json names = record[key];
    if (names.is_object()) {
      names = Json::array();
      for (const Json& name : record[key]) names.push_back(name);
    }
    row[key] = moved(names, folder_of(wanted_.data), folder_of(wanted_.out));
  }
  if (record.contains("video_fps")) row["video_fps"] = record["video_fps"];
  row["conversations"] = conversations;
  row["task"] = "vqa";
  if (record.contains("language")) row["language"] = record["language"];
  row["key"] = work.key;
  return row;
}

Json Rewriter::original_of(const Work& work) const {
  Json row = record(work.index);
  for (const char* key : kPictureKeys) {
    if (row.contains(key)) row[key] = moved(row[key], folder_of(wanted_.data), folder_of(wanted_.out));
  }
  row["key"] = work.key;
  row["original"] = true;
  return row;
}

void Rewriter::finish_group(const std::vector<Work>& group) {
  std::vector<std::string> prompts;
  for (const Work& work : group) {
    if (!work.caption.empty()) prompts.push_back(caption_prompt(wanted_.prompt_template, work.caption));
  }
  const std::vector<ModelReply> replies = prompts.empty() ? std::vector<ModelReply>{} : answer_(prompts);
  std::vector<Json> rows, failures;
  std::size_t next = 0;
  for (const Work& work : group) {
    std::string problem = "no caption", said;
    if (!work.caption.empty()) {
      const ModelReply& reply = replies.at(next++);
      said = reply.text;
      problem = reply.problem;
      if (problem.empty()) {
        const CaptionReply read = read_caption_reply(reply.text, wanted_.prompt_template);
        problem = read.problem;
        if (problem.empty()) rows.push_back(row_of(work, record(work.index), read.pairs));
      }
    }
    if (problem.empty()) continue;
    if (failed_.insert(work.key).second) {
      failures.push_back({{"key", work.key}, {"id", work.id}, {"place", file_.place(work.index)}, {"reason", problem}, {"reply", printable(said, 200)}});
    }
    if (wanted_.keep_original) rows.push_back(original_of(work));
  }
  failures_.append(failures);
  rows_.append(rows);
}

Json Rewriter::report() const {
  std::map<std::string, std::int64_t> reasons;
  Json listed = Json::array();
  std::int64_t rewritten = 0, originals = 0, pairs = 0;
  for (const Json& row : rows_.rows()) {
    const bool original = row.value("original", false);
    originals += original ? 1 : 0;
    rewritten += original ? 0 : 1;
    if (!original) pairs += static_cast<std::int64_t>(row["conversations"].size() / 2);
  }
  for (const Json& failure : failures_.rows()) {
    ++reasons[failure["reason"].get<std::string>()];
    if (listed.size() < kMostListed) listed.push_back(failure);
  }
  return {{"samples", file_.size()}, {"captions", captions_}, {"rewritten", rewritten}, {"pairs", pairs},
          {"failed", failures_.rows().size()}, {"kept_original", originals}, {"reasons", Json(reasons)}, {"listed", listed}};
}

Json Rewriter::run() {
  for (const Json& row : rows_.rows()) done_.insert(row.value("key", ""));
  for (const Json& failure : failures_.rows()) {
    failed_.insert(failure.value("key", ""));
    // What is to be kept as it was is done when it stands in the output.
    if (!wanted_.keep_original) done_.insert(failure.value("key", ""));
  }
  std::vector<Work> work;
  std::unordered_set<std::string> seen;
  for (std::int64_t index = 0; index < file_.size(); ++index) {
    auto one = work_of(index);
    if (!one) continue;
    captions_ += one->caption.empty() ? 0 : 1;
    if (seen.insert(one->key).second) work.push_back(std::move(*one));  // the same record again is the same row
  }
  drop_torn_groups(work);
  const auto size = static_cast<std::size_t>(wanted_.group);
  Progress progress("rewrite", static_cast<std::int64_t>(work.size()));
  for (std::size_t begin = 0; begin < work.size(); begin += size) {
    std::vector<Work> group;
    for (std::size_t i = begin; i < std::min(work.size(), begin + size); ++i) {
      if (!done_.contains(work[i].key)) group.push_back(work[i]);
    }
    if (!group.empty()) finish_group(group);
    progress.update(static_cast<std::int64_t>(std::min(work.size(), begin + size)),
                    fmt::format("{} rewritten, {} failed", rows_.rows().size(), failures_.rows().size()));
  }
  progress.finish();
  return report();
}

}  // namespace

Json rewrite_captions(const CaptionRewriting& wanted, const PromptAnswerer& answer) {
  PV_CHECK(wanted.out.ends_with(".jsonl"), "--out: {}: rewritten captions are appended line by line; name a .jsonl file", wanted.out);
  PV_CHECK(!fs::exists(wanted.out) || !fs::exists(wanted.data) || !fs::equivalent(wanted.out, wanted.data),
           "--out: {}: is the data itself; name another file",
           wanted.out);
  PV_CHECK(wanted.resume || !fs::exists(wanted.out), "{}: exists; continue it with --resume, or choose another --out", wanted.out);
  caption_prompt(wanted.prompt_template, "");  // a template without its mark is an error before anything is written
  if (const fs::path folder = fs::path(wanted.out).parent_path(); !folder.empty()) make_folders(folder.string());
  Rewriter rewriter(wanted, answer);
  const Json report = rewriter.run();
  write_file_atomic(wanted.out + ".report.json", report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  return report;
}

}  // namespace pocketvlm
