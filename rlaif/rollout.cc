#include "rlaif/rollout.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "model/generation.h"
#include "rlaif/content_key.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kRolloutStream = 0x726F6C6C;

// What lies there was made by this policy, from this picture, question and decoding.
void check_made_from(const RlaifConfig& config,
                     const std::string& policy_hash,
                     const Prompts& prompts,
                     const PromptAnswers& answers,
                     const std::string& path) {
  PV_CHECK(rollout_key(config, policy_hash, prompts.at(answers.index)) == answers.key,
           "{}: the answers to prompt {} (\"{}\") were made from another picture or question, or by another policy; delete the "
           "folder of the round to start again",
           path,
           answers.index,
           answers.id);
}

// The groups of prompts that the log holds whole; what is behind them is cut off.
std::vector<PromptAnswers> read_whole_groups(const RlaifConfig& config,
                                             const std::string& policy_hash,
                                             const Prompts& prompts,
                                             JsonlLog& log) {
  std::vector<PromptAnswers> done;
  std::vector<PromptAnswers> group;
  std::size_t row = 0;
  std::size_t whole_rows = 0;
  for (std::int64_t index = 0; index < prompts.size(); ++index) {
    std::optional<PromptAnswers> prompt = read_answers(log, index, config.rollout.samples, row);
    if (!prompt) break;
    if (prompt->skipped.empty()) check_made_from(config, policy_hash, prompts, *prompt, log.path());
    group.push_back(std::move(*prompt));
    if ((index + 1) % config.batch != 0 && index + 1 != prompts.size()) continue;
    std::move(group.begin(), group.end(), std::back_inserter(done));
    group.clear();
    whole_rows = row;
  }
  if (whole_rows < log.rows().size()) log.keep(whole_rows);
  return done;
}

// Samples drawn at one temperature: all of them, or those that share an entry of `temperatures`.
struct SampleGroup {
  SamplingConfig sampling;
  std::vector<std::int64_t> samples;  // their numbers
};

std::vector<SampleGroup> sample_groups(const RlaifConfig& config) {
  const RolloutConfig& rollout = config.rollout;
  const std::size_t count = std::max<std::size_t>(1, rollout.temperatures.size());
  std::vector<SampleGroup> groups(count);
  for (std::size_t i = 0; i < count; ++i) {
    SamplingConfig& sampling = groups[i].sampling;
    sampling.temperature = rollout.temperatures.empty() ? rollout.temperature : rollout.temperatures[i];
    sampling.top_p = rollout.top_p;
    sampling.top_k = rollout.top_k;
    sampling.repetition_penalty = rollout.repetition_penalty;
    sampling.max_new_tokens = rollout.max_new_tokens;
    sampling.min_new_tokens = rollout.min_new_tokens;
    sampling.stop = rollout.stop;
    sampling.stop_ids = rollout.stop_ids;
    sampling.max_repeats = rollout.max_repeats;
    sampling.seed = i == 0 ? mix_keys({config.seed, kRolloutStream})
                           : mix_keys({config.seed, kRolloutStream, i});
    for (auto s = static_cast<std::int64_t>(i); s < rollout.samples; s += static_cast<std::int64_t>(count))
      groups[i].samples.push_back(s);
    sampling.num_samples = static_cast<int64_t>(groups[i].samples.size());
  }
  std::erase_if(groups, [](const SampleGroup& group) { return group.samples.empty(); });
  return groups;
}

// A prompt as tokens; or why it cannot be asked: such a prompt is left out, counted and listed, and
// the round goes on.
struct EncodedPrompt {
  PromptAnswers answers;  // still empty
  EncodedChat chat;
};

EncodedPrompt encode_prompt(const RlaifConfig& config,
                            const LoadedModel& policy,
                            const std::string& policy_hash,
                            const Prompts& prompts,
                            std::int64_t index) {
  EncodedPrompt prompt;
  prompt.answers.index = index;
  prompt.answers.id = std::to_string(index);
  try {
    Picture picture = prompts.at(index);
    prompt.answers.id = picture.id;
    prompt.answers.question = picture.question;
    prompt.answers.language = picture.language;
    prompt.answers.key = rollout_key(config, policy_hash, picture);
    prompt.answers.picture_key = picture_key(picture.image);
    Chat chat;
    chat.turns.push_back({"user", picture.question});
    chat.images.push_back(std::move(picture.image));
    prompt.chat = policy.encoder->encode(chat, true);
    const auto tokens = static_cast<std::int64_t>(prompt.chat.ids.size());
    PV_CHECK(tokens < policy.config.language.max_positions,
             "the prompt has {} tokens; language.max_positions = {} leaves no room for an answer",
             tokens,
             policy.config.language.max_positions);
  } catch (const Error& error) {
    prompt.answers.skipped = error.what();
  }
  return prompt;
}

// This rank's prompts of a turn, encoded beside the generation of the turn before.
std::future<std::vector<EncodedPrompt>> encode_group(const RlaifConfig& config,
                                                     const LoadedModel& policy,
                                                     const std::string& policy_hash,
                                                     const Prompts& prompts,
                                                     const WorkTurn& turn) {
  return std::async(std::launch::async, [&config, &policy, &policy_hash, &prompts, turn] {
    std::vector<EncodedPrompt> group;
    for (std::size_t index = turn.own_begin; index < turn.own_end; ++index) {
      group.push_back(encode_prompt(config, policy, policy_hash, prompts, static_cast<std::int64_t>(index)));
    }
    return group;
  });
}

Answer to_answer(std::int64_t sample, Generation made, const SamplingConfig& sampling) {
  Answer answer{sample, std::move(made.text), std::move(made.ids), made.stopped};
  if (!made.stopped) {
    const bool full = static_cast<std::int64_t>(answer.ids.size()) >= sampling.max_new_tokens;
    answer.cut = made.repeated ? "max_repeats" : full ? "max_new_tokens" : "language.max_positions";
  }
  for (const float log_prob : made.log_probs)
    answer.log_probs.push_back(std::round(static_cast<double>(log_prob) * 1e6) / 1e6);
  return answer;
}

std::vector<PromptAnswers> answer_group(const RlaifConfig& config,
                                        LoadedModel& policy,
                                        std::vector<EncodedPrompt> group) {
  std::vector<EncodedChat> chats;
  std::vector<std::uint64_t> keys;
  for (EncodedPrompt& prompt : group) {
    if (!prompt.answers.skipped.empty()) continue;
    chats.push_back(std::move(prompt.chat));
    keys.push_back(static_cast<std::uint64_t>(prompt.answers.index));
  }
  const auto samples = static_cast<std::size_t>(config.rollout.samples);
  std::vector<Answer> answers(chats.size() * samples);  // prompt * samples + sample
  for (const SampleGroup& drawn : sample_groups(config)) {
    if (chats.empty()) break;
    std::vector<Generation> generations =
        generate_batch(policy.model, *policy.encoder, chats, drawn.sampling, keys, config.rollout.max_branches);
    for (std::size_t i = 0; i < generations.size(); ++i) {
      const std::int64_t sample = drawn.samples[i % drawn.samples.size()];
      answers[i / drawn.samples.size() * samples + static_cast<std::size_t>(sample)] =
          to_answer(sample, std::move(generations[i]), drawn.sampling);
    }
  }
  std::vector<PromptAnswers> answered;
  auto next = answers.begin();
  for (EncodedPrompt& prompt : group) {
    if (prompt.answers.skipped.empty()) {
      const auto end = next + static_cast<std::ptrdiff_t>(samples);
      prompt.answers.answers.assign(std::make_move_iterator(next), std::make_move_iterator(end));
      next = end;
    }
    answered.push_back(std::move(prompt.answers));
  }
  return answered;
}

}  // namespace

std::string rollout_key(const RlaifConfig& config,
                        const std::string& policy_hash,
                        const Picture& picture) {
  const Image& image = picture.image;
  Json decoding = config_to_json(config.rollout);
  decoding.erase("max_branches");  // no answer depends on it
  return content_key(
      {policy_hash,
       decoding.dump(),
       fmt::format("{} {} {} {}", picture.question, config.seed, image.width, image.height),
       {reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size()}});
}

std::vector<PromptAnswers> sample_answers(const RlaifConfig& config,
                                          LoadedModel& policy,
                                          const std::string& policy_hash,
                                          const Prompts& prompts,
                                          JsonlLog& log,
                                          const RoundObserver& observer,
                                          const WorkingRanks& ranks) {
  std::vector<PromptAnswers> answered = read_whole_groups(config, policy_hash, prompts, log);
  const at::NoGradGuard no_grad;
  const ComputeDtype compute(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
  const CachedWeights cached;
  const auto count = static_cast<std::size_t>(prompts.size());
  const auto turn_from = [&](std::size_t begin) {
    return turn_of(ranks, begin, count, static_cast<std::size_t>(config.batch));
  };
  std::optional<Progress> progress;
  if (ranks.is_first())
    progress.emplace("rollout: prompts", prompts.size(), static_cast<std::int64_t>(answered.size()));
  WorkTurn turn = turn_from(answered.size());
  auto next = encode_group(config, policy, policy_hash, prompts, turn);
  while (answered.size() < count) {
    std::vector<EncodedPrompt> group = next.get();
    turn = turn_from(turn.end);
    next = encode_group(config, policy, policy_hash, prompts, turn);
    std::vector<Json> rows;
    for (const PromptAnswers& prompt : answer_group(config, policy, std::move(group))) {
      for (Json& row : to_rows(prompt)) rows.push_back(std::move(row));
    }
    std::size_t row = log.rows().size();
    log.append(gather_rows(ranks, rows));
    while (row < log.rows().size()) {
      const auto index = static_cast<std::int64_t>(answered.size());
      answered.push_back(read_answers(log, index, config.rollout.samples, row).value());
    }
    if (progress) progress->update(static_cast<std::int64_t>(answered.size()));
    if (observer) observer("rollout", static_cast<std::int64_t>(answered.size()));
  }
  if (progress) progress->finish();
  const bool any = std::any_of(answered.begin(), answered.end(), [](const PromptAnswers& prompt) {
    return prompt.skipped.empty();
  });
  PV_CHECK(any,
           "{}: none of {} prompts could be answered; the first: {}",
           log.path(),
           answered.size(),
           answered.front().skipped);
  return answered;
}

}  // namespace pocketvlm
