#include "rlaif/round_files.h"

#include <filesystem>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "rlaif/content_key.h"

namespace pocketvlm {
namespace {

[[noreturn]] void damaged(const JsonlLog& log, std::size_t row, const Json::exception& error) {
  fail("{}:{}: {}; delete the file to make it again", log.path(), row + 1, error.what());
}

void check_there(const std::string& path, const char* command) {
  PV_CHECK(std::filesystem::exists(path),
           "{}: is not there; make it with `pocketvlm rlaif {}`",
           path,
           command);
}

// Rows are bound to what they were made from. A row of an earlier version has no key.
void check_key(const Json& json, const std::string& key, const std::string& path, std::size_t row) {
  PV_CHECK(json.value("key", "") == key,
           "{}:{}: was made from another answer or picture than {} holds now; delete the file to make it again",
           path,
           row + 1,
           std::filesystem::path(path).parent_path().string() + "/rollouts.jsonl");
}

}  // namespace

void check_round(const std::string& folder, std::int64_t round) {
  if (!std::filesystem::exists(folder + "/round.json")) return;
  const std::int64_t held = read_round(folder);
  PV_CHECK(held == round,
           "{}: works on the prompts of round {}, not {}; leave --round out, or choose another folder",
           folder,
           held + 1,
           round + 1);
}

void write_round(const std::string& folder, std::int64_t round, std::int64_t repeated) {
  write_json(folder + "/round.json", {{"round", round}, {"repeated_prompts", repeated}});
}

std::int64_t read_round(const std::string& folder) {
  const std::string path = folder + "/round.json";
  if (!std::filesystem::exists(path)) return 0;
  const Json json = read_json(path);
  PV_CHECK(json.is_object() && json.contains("round") && json["round"].is_number_integer(),
           "{}: has no \"round\"",
           path);
  return json["round"].get<std::int64_t>();
}

std::string picture_key(const Image& image) {
  return content_key({fmt::format("{} {}", image.width, image.height),
                      {reinterpret_cast<const char*>(image.rgb.data()), image.rgb.size()}});
}

Picture checked_picture(const Prompts& prompts, std::int64_t index, const std::string& key) {
  Picture picture = prompts.at(index);
  PV_CHECK(key.empty() || picture_key(picture.image) == key,
           "picture {} (\"{}\") is not the one that was sampled from; delete the folder of the round to start again",
           index,
           picture.id);
  return picture;
}

std::string answer_key(const PromptAnswers& prompt, const Answer& answer) {
  return content_key({prompt.picture_key, prompt.question, prompt.language, answer.text});
}

std::string verdict_key(const std::string& picture_key, const std::string& question) {
  return content_key({picture_key, question});
}

std::vector<Json> to_rows(const PromptAnswers& prompt) {
  const Json head = {
      {"prompt_id", prompt.id}, {"index", prompt.index}, {"question", prompt.question}};
  std::vector<Json> rows;
  if (!prompt.skipped.empty()) {
    rows.push_back(head);
    rows.back()["skipped"] = prompt.skipped;
  }
  for (const Answer& answer : prompt.answers) {
    rows.push_back(head);
    Json& row = rows.back();
    row["sample"] = answer.sample;
    row["text"] = answer.text;
    row["ids"] = answer.ids;
    if (!answer.log_probs.empty()) row["log_probs"] = answer.log_probs;
    row["finished"] = answer.finished;
    if (!answer.finished) row["cut"] = answer.cut;
    row["key"] = prompt.key;
    row["picture_key"] = prompt.picture_key;
    if (!prompt.language.empty()) row["language"] = prompt.language;
  }
  return rows;
}

std::optional<PromptAnswers> read_answers(const JsonlLog& log,
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
      prompt.question = json.at("question").get<std::string>();
      if (json.contains("skipped")) {
        prompt.skipped = json.at("skipped").get<std::string>();
        row = next + 1;
        return prompt;
      }
      prompt.key = json.at("key").get<std::string>();
      prompt.picture_key = json.at("picture_key").get<std::string>();
      prompt.language = json.value("language", "");
      prompt.answers.push_back({json.at("sample").get<std::int64_t>(),
                                json.at("text").get<std::string>(),
                                json.at("ids").get<std::vector<std::int32_t>>(),
                                json.at("finished").get<bool>(),
                                json.value("cut", ""),
                                json.value("log_probs", std::vector<double>{})});
    }
  } catch (const Json::exception& error) {
    damaged(log, next, error);
  }
  const auto count = static_cast<std::int64_t>(prompt.answers.size());
  if (samples < 0 ? count == 0 : count != samples) return std::nullopt;
  row = next;
  return prompt;
}

std::vector<PromptAnswers> read_answers(const std::string& path, const WorkingRanks& ranks) {
  check_there(path, "sample");
  const JsonlLog log(path, ranks);
  std::vector<PromptAnswers> prompts;
  std::size_t row = 0;
  while (row < log.rows().size()) {
    PV_CHECK(log.rows()[row].contains("index") && log.rows()[row]["index"].is_number_integer(),
             "{}:{}: has no \"index\"",
             path,
             row + 1);
    auto prompt = read_answers(log, log.rows()[row]["index"].get<std::int64_t>(), -1, row);
    if (!prompt) break;
    prompts.push_back(std::move(*prompt));
  }
  PV_CHECK(!prompts.empty(), "{}: holds no answer; make it again with `pocketvlm rlaif sample`", path);
  return prompts;
}

std::vector<PreferencePair> read_pairs(const std::string& path, const std::vector<PromptAnswers>& answers) {
  PV_CHECK(std::filesystem::exists(path),
           "{}: is not there; make it with `pocketvlm rlaif pairs`, or name a file with --pairs",
           path);
  std::set<std::tuple<std::int64_t, std::string, std::int64_t, std::string>> known;  // prompt, picture, sample, text
  for (const PromptAnswers& prompt : answers) {
    for (const Answer& answer : prompt.answers) known.insert({prompt.index, prompt.picture_key, answer.sample, answer.text});
  }
  std::vector<PreferencePair> pairs;
  try {
    for (const Json& row : read_jsonl(path)) {
      const PreferencePair pair = PreferencePair::from_json(row);
      PV_CHECK(known.count({pair.index, pair.picture_key, pair.chosen_sample, pair.chosen}) == 1 &&
                   known.count({pair.index, pair.picture_key, pair.rejected_sample, pair.rejected}) == 1,
               "{}:{}: is a pair of other answers than rollouts.jsonl holds; delete the file and make it again with "
               "`pocketvlm rlaif pairs`",
               path,
               pairs.size() + 1);
      pairs.push_back(pair);
    }
  } catch (const Json::exception& error) {
    fail("{}:{}: {}; delete the file to make it again", path, pairs.size() + 1, error.what());
  }
  return pairs;
}

std::vector<std::string> PromptClaims::questions() const {
  std::vector<std::string> questions;
  std::set<std::string> known;
  for (const AnswerClaims& answer : answers) {
    for (const Claim& claim : answer.claims) {
      if (known.insert(claim.question).second) questions.push_back(claim.question);
    }
  }
  return questions;
}

std::vector<Json> to_rows(const PromptClaims& claims, const PromptAnswers& answers) {
  std::vector<Json> rows;
  for (std::size_t i = 0; i < claims.answers.size(); ++i) {
    Json list = Json::array();
    for (const Claim& claim : claims.answers[i].claims)
      list.push_back({{"claim", claim.text}, {"question", claim.question}});
    rows.push_back({{"prompt_id", claims.id},
                    {"index", claims.index},
                    {"sample", answers.answers[i].sample},
                    {"key", answer_key(answers, answers.answers[i])},
                    {"claims", std::move(list)}});
    if (!claims.answers[i].problem.empty()) rows.back()["problem"] = claims.answers[i].problem;
  }
  return rows;
}

std::optional<PromptClaims> read_claims(const JsonlLog& log,
                                        const PromptAnswers& answers,
                                        std::size_t& row) {
  PromptClaims claims{answers.index, answers.id, answers.picture_key, {}};
  std::size_t next = row;
  try {
    for (const Answer& answer : answers.answers) {
      if (next == log.rows().size()) return std::nullopt;
      const Json& json = log.rows()[next];
      if (json.at("index").get<std::int64_t>() != answers.index ||
          json.at("sample").get<std::int64_t>() != answer.sample) {
        return std::nullopt;
      }
      check_key(json, answer_key(answers, answer), log.path(), next);
      AnswerClaims read;
      read.problem = json.value("problem", "");
      for (const Json& claim : json.at("claims")) {
        read.claims.push_back(
            {claim.at("claim").get<std::string>(), claim.at("question").get<std::string>()});
      }
      claims.answers.push_back(std::move(read));
      ++next;
    }
  } catch (const Json::exception& error) {
    damaged(log, next, error);
  }
  row = next;
  return claims;
}

std::vector<PromptClaims> read_claims(const std::string& path,
                                      const std::vector<PromptAnswers>& answers,
                                      const WorkingRanks& ranks) {
  check_there(path, "split");
  const JsonlLog log(path, ranks);
  std::vector<PromptClaims> all;
  std::size_t row = 0;
  for (const PromptAnswers& prompt : answers) {
    auto claims = read_claims(log, prompt, row);
    PV_CHECK(claims.has_value(),
             "{}:{}: the claims of prompt {} are missing; finish them with `pocketvlm rlaif split`",
             path,
             row + 1,
             prompt.index);
    all.push_back(std::move(*claims));
  }
  return all;
}

}  // namespace pocketvlm
