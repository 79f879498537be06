#include "rlaif/checkpoint_splitter.h"

#include <optional>
#include <utility>

#include "base/progress.h"
#include "model/generation.h"
#include "rlaif/plain_text.h"
#include "rlaif/refusals.h"

namespace pocketvlm {
CheckpointSplitter::CheckpointSplitter(const std::string& folder, const RlaifConfig& config)
    : model_(load_model(folder)),
      dtype_(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32),
      prompts_{config.splitter_prompt, config.question_prompt},
      identity_(weights_hash(*model_.model, {"*"}) + prompts_.identity()) {
  model_.model->to(torch::Device(config.device));
}

std::vector<SplitResult> CheckpointSplitter::split(const std::vector<SplitTask>& tasks) {
  return split_by_model(prompts_, tasks, [this](const std::vector<std::string>& requests) { return answer(requests); });
}

std::vector<SplitOutput> CheckpointSplitter::answer(const std::vector<std::string>& requests) {
  std::vector<SplitOutput> results(requests.size());
  std::vector<EncodedChat> prompts;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EncodedChat prompt = model_.encoder->encode({{{"user", without_image_marks(requests[i])}}, {}}, true);
    if (static_cast<std::int64_t>(prompt.ids.size()) >= model_.config.language.max_positions) {
      results[i].problem = "too long for the splitter";
      continue;
    }
    prompts.push_back(std::move(prompt));
    places.push_back(i);
  }
  if (prompts.empty()) return results;
  SamplingConfig sampling;
  sampling.max_new_tokens = kSplitTokens;
  const ComputeDtype compute(dtype_);
  const std::vector<Generation> outputs =
      generate_batch(model_.model, *model_.encoder, prompts, sampling);
  for (std::size_t i = 0; i < outputs.size(); ++i) results[places[i]] = outputs[i].stopped ? SplitOutput{outputs[i].text} : cut_split();
  return results;
}

std::unique_ptr<Splitter> make_splitter(const RlaifConfig& config, const std::string& checkpoint) {
  if (auto light = make_light_splitter(config)) return light;
  return std::make_unique<CheckpointSplitter>(checkpoint.empty() ? config.splitter : checkpoint, config);
}

std::vector<PromptClaims> split_answers(const RlaifConfig& config,
                                        Splitter& splitter,
                                        const std::vector<PromptAnswers>& prompts,
                                        JsonlLog& log,
                                        const RoundObserver& observer,
                                        const WorkingRanks& ranks) {
  std::vector<PromptClaims> all;
  std::size_t row = 0;
  const auto read_more = [&] {
    while (all.size() < prompts.size()) {
      auto claims = read_claims(log, prompts[all.size()], row);
      if (!claims) return;
      all.push_back(std::move(*claims));
    }
  };
  read_more();
  if (row < log.rows().size()) log.keep(row);
  Refusals refusals;
  for (const Json& line : log.rows()) refusals.count(line.value("problem", ""));
  std::optional<Progress> progress;
  if (ranks.is_first())
    progress.emplace("split: prompts", static_cast<std::int64_t>(prompts.size()), static_cast<std::int64_t>(all.size()));
  while (all.size() < prompts.size()) {
    const WorkTurn turn = turn_of(ranks, all.size(), prompts.size(), static_cast<std::size_t>(config.batch));
    std::vector<SplitTask> tasks;
    for (std::size_t i = turn.own_begin; i < turn.own_end; ++i) {
      for (const Answer& answer : prompts[i].answers)
        tasks.push_back({prompts[i].question, answer.text, prompts[i].language});
    }
    std::vector<SplitResult> results = splitter.split(tasks);
    auto result = results.begin();
    std::vector<Json> rows;
    for (std::size_t i = turn.own_begin; i < turn.own_end; ++i) {
      PromptClaims claims{prompts[i].index, prompts[i].id, prompts[i].picture_key, {}};
      for (std::size_t j = 0; j < prompts[i].answers.size(); ++j, ++result)
        claims.answers.push_back({std::move(result->claims), std::move(result->problem)});
      for (Json& line : to_rows(claims, prompts[i])) rows.push_back(std::move(line));
    }
    rows = gather_rows(ranks, rows);
    for (const Json& line : rows) refusals.count(line.value("problem", ""));
    refusals.check("splitter " + config.splitter, log);
    log.append(rows);
    read_more();
    if (progress) progress->update(static_cast<std::int64_t>(turn.end));
    if (observer) observer("split", static_cast<std::int64_t>(turn.end));
  }
  if (progress) progress->finish();
  refusals.check("splitter " + config.splitter, log, 0);
  return all;
}

}  // namespace pocketvlm
