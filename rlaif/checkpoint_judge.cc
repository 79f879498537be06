#include "rlaif/checkpoint_judge.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "model/generation.h"
#include "rlaif/branched_forward.h"
#include "rlaif/plain_text.h"

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

CheckpointJudge::CheckpointJudge(const std::string& folder, const RlaifConfig& config)
    : folder_(folder),
      suffix_(config.judge_suffix),
      judge_(load_model(folder)),
      dtype_(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32),
      share_prefix_(config.share_prefix),
      ids_(yes_no_ids(*judge_.encoder)) {
  identity_ = weights_hash(*judge_.model, {"*"}) + suffix_;
  judge_.model->to(torch::Device(config.device));
}

std::vector<Verdict> CheckpointJudge::verdicts(const Image& image,
                                               const std::vector<std::string>& questions) {
  std::vector<Verdict> verdicts(questions.size());
  std::vector<EncodedChat> prompts;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    Chat chat;
    chat.turns.push_back({"user", without_image_marks(questions[i]) + suffix_});
    // Questions that share the picture's tokens need no pixels of their own.
    chat.images.push_back(share_prefix_ && !prompts.empty() ? Image::outline(image.width, image.height) : image);
    EncodedChat prompt = judge_.encoder->encode(chat, true);
    if (static_cast<std::int64_t>(prompt.ids.size()) >= judge_.config.language.max_positions)
      verdicts[i].problem = "too long for the judge";
    else
      prompts.push_back(std::move(prompt));
  }
  std::vector<std::int32_t> candidates = ids_.yes;
  candidates.insert(candidates.end(), ids_.no.begin(), ids_.no.end());
  const ComputeDtype compute(dtype_);
  const std::vector<std::vector<double>> answers =
      share_prefix_ && prompts.size() > 1
          ? shared_first_token_log_probs(judge_.model, prompts, candidates)
          : first_token_log_probs(judge_.model, prompts, candidates);
  auto answer = answers.begin();
  for (Verdict& verdict : verdicts) {
    if (!verdict.asked()) continue;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      (i < ids_.yes.size() ? verdict.p_yes : verdict.p_no) += std::exp((*answer)[i]);
    }
    ++answer;
  }
  return verdicts;
}

std::vector<std::vector<double>> shared_first_token_log_probs(
    VisionLanguageModel& model,
    const std::vector<EncodedChat>& prompts,
    const std::vector<std::int32_t>& candidates) {
  const torch::NoGradGuard no_grad;
  const CachedWeights cached;
  model->eval();
  std::vector<EncodedSample> sequences;
  for (const EncodedChat& prompt : prompts) {
    EncodedSample sequence;
    sequence.id = "question " + std::to_string(sequences.size());
    sequence.chat = prompt;
    sequence.chat.is_target.assign(prompt.ids.size(), 0);
    sequences.push_back(std::move(sequence));
  }
  BranchedBatch branched;
  append_branches(std::move(sequences), branched);
  std::vector<std::int64_t> last;  // tokens whose successor is asked for
  std::int64_t end = 0;
  for (std::size_t i = 0; i < branched.parents.size(); ++i) {
    end += branched.batch.segment_lengths[i];
    if (branched.parents[i] >= 0) last.push_back(end - 1);
  }
  const torch::Device device = model->language->output_weight().device();
  const auto on_device = [&](const std::vector<std::int64_t>& values) {
    return torch::tensor(values, torch::kInt64).to(device);
  };
  const Batch batch = to_batch(branched.batch, device);
  const torch::Tensor hidden = branched_hidden_states(model, branched, batch, on_device(last));
  const torch::Tensor log_probs =
      at::log_softmax(model->logits(hidden), 1)
          .index_select(1, on_device({candidates.begin(), candidates.end()}))
          .to(torch::kCPU, torch::kFloat64)
          .contiguous();
  const double* values = log_probs.data_ptr<double>();
  std::vector<std::vector<double>> results;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    results.emplace_back(values + i * candidates.size(), values + (i + 1) * candidates.size());
  return results;
}

std::unique_ptr<Judge> make_judge(const RlaifConfig& config, const std::string& checkpoint) {
  if (is_server(config.judge))
    return std::make_unique<ServerJudge>(config.judge, config.judge_server, config.judge_suffix);
  return std::make_unique<CheckpointJudge>(checkpoint, config);
}

}  // namespace pocketvlm
