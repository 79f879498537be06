#include "rlaif/judge.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "rlaif/shared_pack.h"

namespace pocketvlm {
namespace {

// The first token that an assistant would write to say `word`, in the template's own context: "yes" after a line feed, after
// a space or after a special token are different ids, and the wrong one silently has no probability.
std::int32_t first_answer_id(const PromptEncoder& encoder, const std::string& word) {
  Chat chat;
  chat.turns = {{"user", "is it?"}, {"assistant", word}};
  const EncodedChat encoded = encoder.encode(chat, false);
  const auto first = std::find(encoded.is_target.begin(), encoded.is_target.end(), 1);
  PV_CHECK(first != encoded.is_target.end(), "the judge's chat template marks no answer tokens");
  return encoded.ids[static_cast<std::size_t>(first - encoded.is_target.begin())];
}

EncodedSample encode_question(const PromptEncoder& encoder, const Image& image, const std::string& question) {
  Chat chat;
  chat.turns.push_back({"user", question});
  chat.images.push_back(image);
  EncodedSample sample;
  sample.id = question;
  sample.task = "judge";
  sample.chat = encoder.encode(chat, true);
  return sample;
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
             "the judge's tokenizer writes \"yes\" and \"no\" with the same first piece (id {}); train it on yes/no answers",
             id);
  }
  return ids;
}

CheckpointJudge::CheckpointJudge(const std::string& folder,
                                 const std::string& compute_dtype,
                                 std::int64_t pack_tokens,
                                 const std::string& device)
    : folder_(folder),
      judge_(load_model(folder)),
      dtype_(compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32),
      pack_tokens_(pack_tokens),
      identity_(weights_hash(*judge_.model, {"*"})) {
  judge_.model->to(torch::Device(device));
  judge_.model->eval();
  const YesNoIds ids = yes_no_ids(*judge_.encoder);
  candidates_ = ids.yes;
  candidates_.insert(candidates_.end(), ids.no.begin(), ids.no.end());
  num_yes_ = ids.yes.size();
}

void CheckpointJudge::judge_pack(const PackedBatch& pack, const torch::Tensor& visual, std::vector<Verdict>& verdicts) {
  const Batch batch = to_batch(pack, visual.device());
  const torch::Tensor hidden = judge_.model->hidden_states(batch, visual);
  const torch::Tensor rows = torch::tensor(last_tokens(pack), torch::kInt64).to(hidden.device());
  const torch::Tensor log_probs = at::log_softmax(judge_.model->logits(hidden.index_select(0, rows)), -1);
  const std::vector<std::int64_t> ids(candidates_.begin(), candidates_.end());
  const torch::Tensor chosen =
      log_probs.index_select(1, torch::tensor(ids, torch::kInt64).to(hidden.device())).to(torch::kCPU, torch::kFloat64).contiguous();
  const auto* value = chosen.data_ptr<double>();
  for (std::int64_t row = 0; row < chosen.size(0); ++row) {
    Verdict verdict;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      (i < num_yes_ ? verdict.p_yes : verdict.p_no) += std::exp(*value++);
    }
    verdicts.push_back(verdict);
  }
}

std::vector<Verdict> CheckpointJudge::verdicts(const Image& image, const std::vector<std::string>& questions) {
  std::vector<Verdict> verdicts;
  if (questions.empty()) return verdicts;
  const at::NoGradGuard no_grad;
  const ComputeDtype compute(dtype_);
  const torch::Device device = judge_.model->language->output_weight().device();

  PackedBatch picture;
  append_sample(encode_question(*judge_.encoder, image, questions.front()), picture);
  const Batch batch = to_batch(picture, device);
  const torch::Tensor visual = judge_.model->encode_images(batch.patches, batch.grids);

  PackedBatch pack;
  for (const std::string& question : questions) {
    EncodedSample sample = encode_question(*judge_.encoder, image, question);
    if (pack.num_tokens() > 0 && pack.num_tokens() + sample.num_tokens() > pack_tokens_) {
      judge_pack(pack, visual, verdicts);
      pack = {};
    }
    append_sharing_picture(std::move(sample), 0, visual.size(0), pack);
  }
  judge_pack(pack, visual, verdicts);
  return verdicts;
}

}  // namespace pocketvlm
