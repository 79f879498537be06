#include "exporter/importance.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "exporter/export.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kAnswerTokens = 64;
constexpr std::int64_t kPassageTokens = 512;
constexpr double kFloor = 1e-3;  // of a matrix's mean

std::vector<float> means(const InputSquares::Entry& entry) {
  double total = 0;
  for (const double sum : entry.sums) total += sum;
  const double floor = kFloor * total / static_cast<double>(entry.sums.size());
  std::vector<float> mean;
  for (const double sum : entry.sums) {
    // A matrix that reads nothing but zeros: all columns are alike.
    mean.push_back(total > 0 ? static_cast<float>(std::max(sum, floor) / static_cast<double>(entry.rows)) : 1.0F);
  }
  return mean;
}

/// Removes the folder in the end.
class ScratchFolder {
 public:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {
    fs::remove_all(path_);
    make_folders(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Prompt and answer once more, every token read by every matrix.
std::int64_t run_prompt(Session& session, const Chat& chat, InputSquares& squares) {
  EncodedChat prompt = session.encoder().encode(chat, true);
  const std::vector<float> visual = session.encode_image(prompt);
  MobileSampling greedy;
  greedy.max_new_tokens = kAnswerTokens;
  const std::vector<std::int32_t> answer = session.generate(prompt, greedy).ids;
  prompt.ids.insert(prompt.ids.end(), answer.begin(), answer.end());
  session.observe(&squares);
  session.forward_logits(prompt, visual);
  session.observe(nullptr);
  return static_cast<std::int64_t>(prompt.ids.size());
}

/// A text in passages, each on its own.
std::int64_t run_text(Session& session, const std::string& text, InputSquares& squares) {
  const EncodedChat whole = session.encoder().encode_text(text);
  const auto length = static_cast<std::ptrdiff_t>(std::min(kPassageTokens, session.context()));
  session.observe(&squares);
  for (auto begin = whole.ids.begin(); begin != whole.ids.end();) {
    const auto end = begin + std::min(length, whole.ids.end() - begin);
    EncodedChat passage;
    passage.ids.assign(begin, end);
    session.forward_logits(passage);
    begin = end;
  }
  session.observe(nullptr);
  return static_cast<std::int64_t>(whole.ids.size());
}

}  // namespace

const float* Importance::find(const std::string& tensor, std::int64_t length) const {
  const auto found = columns.find(tensor);
  if (found == columns.end()) return nullptr;
  PV_CHECK(static_cast<std::int64_t>(found->second.size()) == length,
           "the importance of {} has {} columns, but the tensor {}; it was measured on another model", tensor, found->second.size(), length);
  return found->second.data();
}

Json Importance::to_json() const {
  return {{"dataset", dataset}, {"prompts", prompts}, {"tokens", tokens}, {"tensors", columns.size()}};
}

Importance to_importance(const InputSquares& squares) {
  static const std::map<std::string, std::vector<std::string>> kSharing = {{"attn_q.weight", {"attn_k.weight", "attn_v.weight"}},
                                                                          {"ffn_gate.weight", {"ffn_up.weight"}}};
  Importance importance;
  for (const auto& [name, entry] : squares.entries()) {
    const std::vector<float> mean = means(entry);
    importance.columns[name] = mean;
    for (const auto& [first, others] : kSharing) {
      if (!name.ends_with(first)) continue;
      for (const std::string& other : others) importance.columns[name.substr(0, name.size() - first.size()) + other] = mean;
    }
  }
  return importance;
}

Importance measure_importance(Session& session, const CalibrationData& data) {
  PV_CHECK(!data.prompts.empty() || !data.text.empty(), "importance: no prompts and no text to measure it on");
  InputSquares squares;
  std::int64_t tokens = 0;
  for (const Chat& chat : data.prompts) tokens += run_prompt(session, chat, squares);
  std::int64_t passages = 0;
  if (!data.text.empty()) {
    const std::int64_t added = run_text(session, data.text, squares);
    passages = (added + kPassageTokens - 1) / kPassageTokens;
    tokens += added;
  }
  Importance importance = to_importance(squares);
  importance.dataset = data.name;
  importance.prompts = static_cast<std::int64_t>(data.prompts.size()) + passages;
  importance.tokens = tokens;
  return importance;
}

Importance measure_importance(const std::string& checkpoint, const CalibrationData& data, const std::string& folder) {
  make_folders(folder);
  const ScratchFolder scratch((fs::path(folder) / "importance.partial").string());
  const ExportedFiles files = export_gguf(checkpoint, "f16", "f16", scratch.path());
  SessionOptions options;
  options.packed = "memory";
  Session session(files.language, files.mmproj, options);
  Importance importance = measure_importance(session, data);
  spdlog::info("importance of {} matrices measured on {} tokens of {}", importance.columns.size(), importance.tokens, data.name);
  return importance;
}

}  // namespace pocketvlm
