#include "rlaif/judge.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "model/generation.h"

namespace pocketvlm {
namespace {

// The first token that an assistant would write to say `word`, in the template's own context: "yes"
// after a line feed, after a space or after a special token are different ids, and the wrong one
// silently has no probability.
std::int32_t first_answer_id(const PromptEncoder& encoder, const std::string& word) {
  Chat chat;
  chat.turns = {{"user", "is it?"}, {"assistant", word}};
  const EncodedChat encoded = encoder.encode(chat, false);
  const auto first = std::find(encoded.is_target.begin(), encoded.is_target.end(), 1);
  PV_CHECK(first != encoded.is_target.end(), "the judge's chat template marks no answer tokens");
  return encoded.ids[static_cast<std::size_t>(first - encoded.is_target.begin())];
}

}  // namespace

YesNoIds yes_no_ids(const PromptEncoder& encoder) {
  YesNoIds ids;
  const auto add = [&](std::vector<std::int32_t>& list, const char* word) {
    const std::int32_t id = first_answer_id(encoder, word);
    if (std::find(list.begin(), list.end(), id) == list.end()) list.push_back(id);
  };
  for (const char* word : {"yes", "Yes"}) add(ids.yes, word);
  for (const char* word : {"no", "No"}) add(ids.no, word);
  for (const std::int32_t id : ids.yes) {
    PV_CHECK(std::find(ids.no.begin(), ids.no.end(), id) == ids.no.end(),
             "the judge's tokenizer writes \"yes\" and \"no\" with the same first piece (id {}); "
             "train it on yes/no answers",
             id);
  }
  return ids;
}

CheckpointJudge::CheckpointJudge(const std::string& folder,
                                 const std::string& compute_dtype,
                                 const std::string& device)
    : folder_(folder),
      judge_(load_model(folder)),
      dtype_(compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32),
      identity_(weights_hash(*judge_.model, {"*"})),
      ids_(yes_no_ids(*judge_.encoder)) {
  judge_.model->to(torch::Device(device));
}

std::vector<Verdict> CheckpointJudge::verdicts(const Image& image,
                                               const std::vector<std::string>& questions) {
  std::vector<Verdict> verdicts(questions.size());
  std::vector<EncodedChat> prompts;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    Chat chat;
    chat.turns.push_back({"user", questions[i]});
    chat.images.push_back(image);
    EncodedChat prompt = judge_.encoder->encode(chat, true);
    verdicts[i].asked =
        static_cast<std::int64_t>(prompt.ids.size()) < judge_.config.language.max_positions;
    if (verdicts[i].asked) prompts.push_back(std::move(prompt));
  }
  std::vector<std::int32_t> candidates = ids_.yes;
  candidates.insert(candidates.end(), ids_.no.begin(), ids_.no.end());
  const ComputeDtype compute(dtype_);
  const std::vector<std::vector<double>> answers =
      first_token_log_probs(judge_.model, prompts, candidates);
  auto answer = answers.begin();
  for (Verdict& verdict : verdicts) {
    if (!verdict.asked) continue;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      (i < ids_.yes.size() ? verdict.p_yes : verdict.p_no) += std::exp((*answer)[i]);
    }
    ++answer;
  }
  return verdicts;
}

}  // namespace pocketvlm
