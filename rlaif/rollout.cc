#include "rlaif/rollout.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
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

Json to_row(const PromptAnswers& prompt, const Answer& answer) {
  return {{"prompt_id", prompt.id},
          {"index", prompt.index},
          {"sample", answer.sample},
          {"text", answer.text},
          {"ids", answer.ids},
          {"finished", answer.finished},
          {"key", prompt.key}};
}

std::vector<Json> to_rows(const PromptAnswers& prompt) {
  if (!prompt.skipped.empty()) {
    return {{{"prompt_id", prompt.id}, {"index", prompt.index}, {"skipped", prompt.skipped}}};
  }
  std::vector<Json> rows;
  for (const Answer& answer : prompt.answers) rows.push_back(to_row(prompt, answer));
  return rows;
}

// Reads the prompt that starts at `row` and moves `row` behind it; nothing when its rows are not
// all there.
std::optional<PromptAnswers> read_prompt(const JsonlLog& log,
                                         std::int64_t index,
                                         std::int64_t samples,
                                         std::size_t& row) {
  const std::vector<Json>& rows = log.rows();
  PromptAnswers prompt;
  std::size_t next = row;
  try {
    for (; next < rows.size(); ++next) {
      const Json& json = rows[next];
      if (json.at("index").get<std::int64_t>() != index) break;
      prompt.index = index;
      prompt.id = json.at("prompt_id").get<std::string>();
      if (json.contains("skipped")) {
        prompt.skipped = json.at("skipped").get<std::string>();
        row = next + 1;
        return prompt;
      }
      prompt.key = json.at("key").get<std::string>();
      prompt.answers.push_back({json.at("sample").get<std::int64_t>(),
                                json.at("text").get<std::string>(),
                                json.at("ids").get<std::vector<std::int32_t>>(),
                                json.at("finished").get<bool>()});
    }
  } catch (const Json::exception& error) {
    fail("{}:{}: {}; delete the file to make it again", log.path(), next + 1, error.what());
  }
  if (static_cast<std::int64_t>(prompt.answers.size()) != samples) return std::nullopt;
  row = next;
  return prompt;
}

// The groups of prompts that the log holds whole; what is behind them is cut off.
std::vector<PromptAnswers> read_whole_groups(const RlaifConfig& config,
                                             const Pictures& pictures,
                                             JsonlLog& log) {
  std::vector<PromptAnswers> done;
  std::vector<PromptAnswers> group;
  std::size_t row = 0;
  std::size_t whole_rows = 0;
  for (std::int64_t index = 0; index < pictures.size(); ++index) {
    std::optional<PromptAnswers> prompt = read_prompt(log, index, config.rollout.samples, row);
    if (!prompt) break;
    group.push_back(std::move(*prompt));
    if ((index + 1) % config.batch != 0 && index + 1 != pictures.size()) continue;
    std::move(group.begin(), group.end(), std::back_inserter(done));
    group.clear();
    whole_rows = row;
  }
  if (whole_rows < log.rows().size()) log.keep(whole_rows);
  return done;
}

SamplingConfig sampling_of(const RlaifConfig& config) {
  SamplingConfig sampling;
  sampling.temperature = config.rollout.temperature;
  sampling.top_p = config.rollout.top_p;
  sampling.top_k = config.rollout.top_k;
  sampling.max_new_tokens = config.rollout.max_new_tokens;
  sampling.num_samples = config.rollout.samples;
  sampling.seed = mix_keys({config.seed, kRolloutStream});
  return sampling;
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
                            const Pictures& pictures,
                            std::int64_t index) {
  EncodedPrompt prompt;
  prompt.answers.index = index;
  prompt.answers.id = std::to_string(index);
  try {
    Picture picture = pictures.at(index);
    prompt.answers.id = picture.id;
    prompt.answers.key = rollout_key(config, policy_hash, picture);
    Chat chat;
    chat.turns.push_back({"user", config.instruction});
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

// The prompts [begin, end), encoded beside the generation of the group before.
std::future<std::vector<EncodedPrompt>> encode_group(const RlaifConfig& config,
                                                     const LoadedModel& policy,
                                                     const std::string& policy_hash,
                                                     const Pictures& pictures,
                                                     std::int64_t begin) {
  const std::int64_t end = std::min(pictures.size(), begin + config.batch);
  return std::async(std::launch::async, [&config, &policy, &policy_hash, &pictures, begin, end] {
    std::vector<EncodedPrompt> group;
    for (std::int64_t index = begin; index < end; ++index) {
      group.push_back(encode_prompt(config, policy, policy_hash, pictures, index));
    }
    return group;
  });
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
  const std::vector<Generation> generations =
      chats.empty()
          ? std::vector<Generation>{}
          : generate_batch(policy.model, *policy.encoder, chats, sampling_of(config), keys);
  std::vector<PromptAnswers> answered;
  auto next = generations.begin();
  for (EncodedPrompt& prompt : group) {
    for (std::int64_t i = 0; prompt.answers.skipped.empty() && i < config.rollout.samples;
         ++i, ++next) {
      prompt.answers.answers.push_back({i, next->text, next->ids, next->stopped});
    }
    answered.push_back(std::move(prompt.answers));
  }
  return answered;
}

}  // namespace

Pictures::Pictures(const SourceConfig& config, std::int64_t count)
    : source_(open_source(config)), count_(count) {
  PV_CHECK(count <= source_->size(),
           "num_prompts is {}, but the source {} has {} samples; lower num_prompts or add pictures",
           count,
           source_->name(),
           source_->size());
}

Picture Pictures::at(std::int64_t index) const {
  Sample sample = source_->at(index);
  PV_CHECK(sample.chat.images.size() == 1,
           "{}: sample \"{}\" has {} pictures; a prompt of the alignment loop has one",
           source_->name(),
           sample.id,
           sample.chat.images.size());
  return {std::move(sample.id), std::move(sample.chat.images.front()), std::move(sample.truth)};
}

std::string rollout_key(const RlaifConfig& config,
                        const std::string& policy_hash,
                        const Picture& picture) {
  const Image& image = picture.image;
  return content_key(
      {policy_hash,
       config_to_json(config.rollout).dump(),
       fmt::format("{} {} {} {}", config.instruction, config.seed, image.width, image.height),
       {reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size()}});
}

std::vector<PromptAnswers> sample_answers(const RlaifConfig& config,
                                          LoadedModel& policy,
                                          const std::string& policy_hash,
                                          const Pictures& pictures,
                                          JsonlLog& log,
                                          const RoundObserver& observer) {
  std::vector<PromptAnswers> prompts = read_whole_groups(config, pictures, log);
  const at::NoGradGuard no_grad;
  const ComputeDtype compute(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
  const CachedWeights cached;
  auto begin = static_cast<std::int64_t>(prompts.size());
  Progress progress("rollout: prompts", pictures.size(), begin);
  auto next = encode_group(config, policy, policy_hash, pictures, begin);
  for (; begin < pictures.size(); begin += config.batch) {
    std::vector<EncodedPrompt> group = next.get();
    next = encode_group(config, policy, policy_hash, pictures, begin + config.batch);
    std::vector<Json> rows;
    for (PromptAnswers& prompt : answer_group(config, policy, std::move(group))) {
      for (Json& row : to_rows(prompt)) rows.push_back(std::move(row));
      prompts.push_back(std::move(prompt));
    }
    log.append(rows);
    progress.update(static_cast<std::int64_t>(prompts.size()));
    if (observer) observer("rollout", static_cast<std::int64_t>(prompts.size()));
  }
  progress.finish();
  const auto answered = std::find_if(
      prompts.begin(), prompts.end(), [](const PromptAnswers& p) { return p.skipped.empty(); });
  PV_CHECK(answered != prompts.end(),
           "{}: none of {} prompts could be answered; the first: {}",
           log.path(),
           prompts.size(),
           prompts.front().skipped);
  return prompts;
}

}  // namespace pocketvlm
