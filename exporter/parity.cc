#include "exporter/parity.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/log.h"
#include "exporter/block_errors.h"
#include "mobile/session.h"
#include "model/batch.h"
#include "model/generation.h"
#include "model/layers.h"

namespace pocketvlm {
namespace {

constexpr std::int64_t kAnswerTokens = 64;

enum class Stage { kTokens, kPatches, kVisualTokens, kDecoder };

const char* name_of(Stage stage) {
  switch (stage) {
    case Stage::kTokens: return "tokens";
    case Stage::kPatches: return "patches";
    case Stage::kVisualTokens: return "visual tokens";
    case Stage::kDecoder: return "decoder position";
  }
  return "";
}

struct Difference {
  std::size_t prompt;
  Stage stage;
  std::int64_t place;   // in the prompt's ids, visual tokens or answer
  EncodedChat forced;   // prompt and answer that were compared there; empty where nothing runs
};

/// Sums over all prompts.
struct Totals {
  bool tokens_equal = true, pixels_equal = true;
  std::optional<double> vision_cosine;  // smallest
  std::int64_t positions = 0, equal_choices = 0, greedy_identical = 0, sliced_prompts = 0;
  double kl = 0.0;
  // The first of its kind: beyond the bounds whatever else is found, or a choice of which some may differ.
  std::optional<Difference> broken, other_choice;

  void breaks(Difference difference) {
    if (!broken) broken = std::move(difference);
  }
};

double smallest_cosine(const torch::Tensor& trainer, const std::vector<float>& phone, std::int64_t& place) {
  const torch::Tensor other = torch::from_blob(const_cast<float*>(phone.data()), trainer.sizes(), torch::kFloat32);
  const torch::Tensor x = trainer.to(torch::kFloat64), y = other.to(torch::kFloat64);
  const torch::Tensor cosine = (x * y).sum(1) / (x.norm(2, 1) * y.norm(2, 1)).clamp_min(1e-30);
  const torch::Tensor smallest = cosine.argmin();  // NaN counts as the smallest
  place = smallest.item<std::int64_t>();
  const double value = cosine[place].item<double>();
  return std::isfinite(value) ? value : -1.0;
}

/// The prompt followed by the trainer's own answer.
EncodedChat with_answer(EncodedChat prompt, const std::vector<std::int32_t>& answer) {
  prompt.ids.insert(prompt.ids.end(), answer.begin(), answer.end());
  prompt.is_target.resize(prompt.ids.size(), 1);
  return prompt;
}

/// Of the positions from `first` on.
torch::Tensor trainer_logits(VisionLanguageModel& model, const EncodedChat& chat, std::int64_t first) {
  EncodedSample sample;
  sample.chat = chat;
  PackedBatch packed;
  append_sample(sample, packed);
  return model->logits(model->hidden_states(to_batch(packed)).slice(0, first)).to(torch::kFloat32);
}

/// bfloat16 where a matrix is held so.
torch::Dtype held_dtype(const VisionLanguageModel& model) {
  for (const torch::Tensor& parameter : model->parameters()) {
    if (parameter.scalar_type() == torch::kBFloat16) return torch::kBFloat16;
  }
  return torch::kFloat32;
}

void compare_prompt(LoadedModel& trainer,
                    torch::Dtype held,
                    Session& phone,
                    const Chat& chat,
                    std::size_t index,
                    double min_cosine,
                    Totals& totals) {
  const EncodedChat ours = trainer.encoder->encode(chat, true);
  const EncodedChat theirs = phone.encoder().encode(chat, true);
  totals.sliced_prompts += ours.grids.size() > chat.images.size() ? 1 : 0;
  if (ours.ids != theirs.ids || ours.visual_positions != theirs.visual_positions) {
    totals.tokens_equal = false;
    const auto parted = std::mismatch(ours.ids.begin(), ours.ids.end(), theirs.ids.begin(), theirs.ids.end()).first;
    return totals.breaks({index, Stage::kTokens, parted - ours.ids.begin(), {}});
  }
  if (ours.patches != theirs.patches || ours.grids != theirs.grids) {
    totals.pixels_equal = false;
    return totals.breaks({index, Stage::kPatches, 0, {}});
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
    totals.vision_cosine = std::min(totals.vision_cosine.value_or(1.0), cosine);
    if (cosine < min_cosine) totals.breaks({index, Stage::kVisualTokens, place, ours});
  }

  SamplingConfig greedy;
  greedy.max_new_tokens = kAnswerTokens;
  const std::vector<std::int32_t> answer = [&] {
    const ComputeDtype guard(held);
    return generate(trainer.model, *trainer.encoder, ours, greedy).front().ids;
  }();
  const EncodedChat forced = with_answer(ours, answer);
  // From the token that starts the answer to the one that ends it.
  const auto first = static_cast<std::int64_t>(ours.ids.size()) - 1;
  const torch::Tensor expected = trainer_logits(trainer.model, forced, first);
  const std::vector<float> logits = phone.forward_logits(forced, visual, first);
  const torch::Tensor actual = torch::from_blob(const_cast<float*>(logits.data()), expected.sizes(), torch::kFloat32);
  const torch::Tensor p = expected.to(torch::kFloat64).log_softmax(1);
  const torch::Tensor q = actual.to(torch::kFloat64).log_softmax(1);
  totals.kl += (p.exp() * (p - q)).sum().item<double>();
  const torch::Tensor equal = (p.argmax(1) == q.argmax(1)).logical_and(q.isfinite().all(1));
  totals.positions += equal.numel();
  totals.equal_choices += equal.sum().item<std::int64_t>();
  if (!equal.all().item<bool>() && !totals.other_choice) {
    totals.other_choice = {index, Stage::kDecoder, equal.logical_not().to(torch::kInt64).argmax().item<std::int64_t>(), forced};
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

/// The place and, where blocks ran, the one that differs.
Json describe(const Difference& difference, LoadedModel& trainer, Session& phone, const std::string& type, const std::string& mmproj_type) {
  Json place = {{"prompt", difference.prompt}, {"stage", name_of(difference.stage)}, {"place", difference.place}};
  if (difference.stage == Stage::kVisualTokens) {
    place.update(differing_block(vision_block_errors(trainer.model, phone, difference.forced), max_block_error(mmproj_type)));
  } else if (difference.stage == Stage::kDecoder) {
    place.update(differing_block(language_block_errors(trainer.model, phone, difference.forced), max_block_error(type)));
  }
  return place;
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

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
  const torch::Dtype held = held_dtype(trainer.model);
  const ComputeDtype float32(torch::kFloat32);
  Totals totals;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    compare_prompt(trainer, held, phone, prompts[i].chat, i, bounds.min_vision_cosine, totals);
  }
  const double agreement =
      totals.positions > 0 ? static_cast<double>(totals.equal_choices) / static_cast<double>(totals.positions) : 0.0;
  const double wanted = required_agreement(type, bounds);
  const bool agrees = totals.positions > 0 && agreement >= wanted;
  const bool passed = !totals.broken && agrees;
  Json first = nullptr, allowed = {{"decoder_positions", agrees ? totals.positions - totals.equal_choices : 0}};
  if (!agrees && totals.other_choice && (!totals.broken || totals.other_choice->prompt < totals.broken->prompt)) {
    totals.broken = std::move(totals.other_choice);
  }
  if (totals.broken) first = describe(*totals.broken, trainer, phone, type, bounds.mmproj_type);
  if (agrees && totals.other_choice) {
    allowed["first"] = {{"prompt", totals.other_choice->prompt}, {"place", totals.other_choice->place}};
  }
  return {{"passed", passed},
          {"prompts", prompts.size()},
          {"sliced_prompts", totals.sliced_prompts},
          {"tokens_equal", totals.tokens_equal},
          {"pixels_equal", totals.pixels_equal},
          {"vision_cosine", totals.vision_cosine ? Json(*totals.vision_cosine) : Json(nullptr)},
          {"required_cosine", bounds.min_vision_cosine},
          {"agreement", agreement},
          {"required_agreement", wanted},
          {"positions", totals.positions},
          {"greedy_identical", totals.greedy_identical},
          {"kl", number(totals.positions > 0 ? totals.kl / static_cast<double>(totals.positions) : 0.0)},
          {"trainer_dtype", held == torch::kBFloat16 ? "bf16" : "f32"},
          {"kernels", phone.kernels()},
          {"first_difference", first},
          {"allowed_differences", allowed}};
}

std::string explain_failure(const Json& parity) {
  const auto share = [&](const char* key) { return parity[key].is_null() ? std::string("none") : fmt::format("{:.6g}", parity[key].get<double>()); };
  std::string text;
  if (parity["vision_cosine"].is_number() && parity["vision_cosine"] < parity["required_cosine"]) {
    text += fmt::format("vision_cosine {} < {}, ", share("vision_cosine"), share("required_cosine"));
  }
  if (parity["agreement"] < parity["required_agreement"]) {
    text += fmt::format("agreement {} < {}, ", share("agreement"), share("required_agreement"));
  }
  Json first = parity["first_difference"];
  if (first.is_object()) first.erase("blocks");
  return text + "first at " + first.dump();
}

}  // namespace pocketvlm
