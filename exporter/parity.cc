#include "exporter/parity.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "data/scenes/scene_source.h"
#include "mobile/session.h"
#include "model/batch.h"
#include "model/generation.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kAnswerTokens = 64;
constexpr std::uint64_t kCalibrationSeed = 0x63616c6962;

/// Sums over all prompts.
struct Totals {
  bool pixels_equal = true;
  double vision_cosine = 1.0;  // smallest
  std::int64_t positions = 0, equal_choices = 0, greedy_identical = 0;
  double kl = 0.0;
  Json first_difference = nullptr;

  void differs(std::size_t prompt, const std::string& layer, std::int64_t place) {
    if (first_difference.is_null()) first_difference = {{"prompt", prompt}, {"layer", layer}, {"place", place}};
  }
};

double smallest_cosine(const torch::Tensor& trainer, const std::vector<float>& phone, std::int64_t& place) {
  const torch::Tensor other = torch::from_blob(const_cast<float*>(phone.data()), trainer.sizes(), torch::kFloat32);
  const torch::Tensor x = trainer.to(torch::kFloat64), y = other.to(torch::kFloat64);
  const torch::Tensor cosine = (x * y).sum(1) / (x.norm(2, 1) * y.norm(2, 1)).clamp_min(1e-30);
  const torch::Tensor smallest = cosine.argmin();
  place = smallest.item<std::int64_t>();
  return cosine[place].item<double>();
}

/// The prompt followed by the trainer's own answer.
EncodedChat with_answer(EncodedChat prompt, const std::vector<std::int32_t>& answer) {
  prompt.ids.insert(prompt.ids.end(), answer.begin(), answer.end());
  prompt.is_target.resize(prompt.ids.size(), 1);
  return prompt;
}

torch::Tensor trainer_logits(VisionLanguageModel& model, const EncodedChat& chat) {
  EncodedSample sample;
  sample.chat = chat;
  PackedBatch packed;
  append_sample(sample, packed);
  return model->logits(model->hidden_states(to_batch(packed)));
}

void compare_prompt(LoadedModel& trainer, Session& phone, const Chat& chat, std::size_t index, double min_cosine, Totals& totals) {
  const EncodedChat ours = trainer.encoder->encode(chat, true);
  const EncodedChat theirs = phone.encoder().encode(chat, true);
  if (ours.ids != theirs.ids) totals.differs(index, "tokens", 0);
  if (ours.patches != theirs.patches || ours.grids != theirs.grids) {
    totals.pixels_equal = false;
    totals.differs(index, "patches", 0);
    return;
  }
  std::vector<float> visual;
  if (!ours.grids.empty()) {
    EncodedSample sample;
    sample.chat = ours;
    PackedBatch packed;
    append_sample(sample, packed);
    const Batch batch = to_batch(packed);
    visual = phone.encode_image(theirs);
    const torch::Tensor expected = trainer.model->encode_images(batch.patches, batch.grids).to(torch::kFloat32);
    PV_CHECK(static_cast<std::int64_t>(visual.size()) == expected.numel(),
             "parity: the phone gives {} visual values, the trainer {}", visual.size(), expected.numel());
    std::int64_t place = 0;
    const double cosine = smallest_cosine(expected, visual, place);
    totals.vision_cosine = std::min(totals.vision_cosine, cosine);
    if (!(cosine >= min_cosine)) totals.differs(index, "visual tokens", place);
  }

  SamplingConfig greedy;
  greedy.max_new_tokens = kAnswerTokens;
  const std::vector<std::int32_t> answer = generate(trainer.model, *trainer.encoder, ours, greedy).front().ids;
  const EncodedChat forced = with_answer(ours, answer);
  const torch::Tensor expected = trainer_logits(trainer.model, forced).to(torch::kFloat32);
  const std::vector<float> logits = phone.forward_logits(forced, visual);
  const torch::Tensor actual = torch::from_blob(const_cast<float*>(logits.data()), expected.sizes(), torch::kFloat32);
  // From the token that starts the answer to the one that ends it.
  const auto first = static_cast<std::int64_t>(ours.ids.size()) - 1;
  const torch::Tensor p = expected.slice(0, first).to(torch::kFloat64).log_softmax(1);
  const torch::Tensor q = actual.slice(0, first).to(torch::kFloat64).log_softmax(1);
  totals.kl += (p.exp() * (p - q)).sum().item<double>();
  const torch::Tensor equal = p.argmax(1) == q.argmax(1);
  totals.positions += equal.numel();
  totals.equal_choices += equal.sum().item<std::int64_t>();
  if (!equal.all().item<bool>()) {
    totals.differs(index, "decoder position", equal.logical_not().to(torch::kInt64).argmax().item<std::int64_t>());
  }

  MobileSampling sampling;
  sampling.max_new_tokens = kAnswerTokens;
  totals.greedy_identical += phone.generate(theirs, sampling).ids == answer ? 1 : 0;
}

double required_agreement(const std::string& type, const ExportConfig& bounds) {
  if (type == "f32" || type == "f16") return bounds.min_agreement_f16;
  if (type == "q8_0" || type == "q6_k") return bounds.min_agreement_q8_0;
  return bounds.min_agreement_q4;
}

}  // namespace

std::vector<ParityPrompt> calibration_prompts(std::int64_t count, const std::string& question, std::int64_t first) {
  ScenesConfig scenes;
  scenes.widths = {112, 168, 224};
  scenes.heights = {112, 112, 168};
  const SceneSource source(scenes, kCalibrationSeed);
  std::vector<ParityPrompt> prompts;
  for (std::int64_t i = first; i < first + count; ++i) {
    Chat chat;
    chat.turns.push_back({"user", question});
    chat.images.push_back(source.draw(source.scene(i)));
    prompts.push_back({std::move(chat)});
  }
  return prompts;
}

std::vector<Chat> chats_of(const std::vector<ParityPrompt>& prompts) {
  std::vector<Chat> chats;
  for (const ParityPrompt& prompt : prompts) chats.push_back(prompt.chat);
  return chats;
}

Json check_parity(LoadedModel& trainer,
                  const ExportedFiles& files,
                  const std::string& type,
                  const std::vector<ParityPrompt>& prompts,
                  const ExportConfig& bounds) {
  PV_CHECK(!prompts.empty(), "parity: no prompts to compare on; raise exports.parity_prompts");
  const torch::NoGradGuard no_grad;
  trainer.model->eval();
  SessionOptions options;
  options.packed = "memory";  // nothing is left beside the exported files
  Session phone(files.language, files.mmproj, options);
  Totals totals;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    compare_prompt(trainer, phone, prompts[i].chat, i, bounds.min_vision_cosine, totals);
  }
  const double agreement =
      totals.positions > 0 ? static_cast<double>(totals.equal_choices) / static_cast<double>(totals.positions) : 0.0;
  const double wanted = required_agreement(type, bounds);
  const bool passed = totals.pixels_equal && totals.vision_cosine >= bounds.min_vision_cosine && agreement >= wanted;
  return {{"passed", passed},
          {"prompts", prompts.size()},
          {"pixels_equal", totals.pixels_equal},
          {"vision_cosine", totals.vision_cosine},
          {"agreement", agreement},
          {"required_agreement", wanted},
          {"positions", totals.positions},
          {"greedy_identical", totals.greedy_identical},
          {"kl", totals.positions > 0 ? totals.kl / static_cast<double>(totals.positions) : 0.0},
          {"kernels", phone.kernels()},
          {"first_difference", totals.first_difference}};
}

}  // namespace pocketvlm
