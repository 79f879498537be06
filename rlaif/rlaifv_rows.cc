#include "rlaif/rlaifv_rows.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestPath = 100;  // RLAIF-V's rule: what is longer is the picture itself

std::string where(const std::string& path, std::size_t row) { return fmt::format("{}:{}", path, row + 1); }

std::string text_of(const Json& row, std::initializer_list<const char*> names, const std::string& place) {
  for (const char* name : names) {
    if (!row.contains(name) || row[name].is_null()) continue;
    return row[name].is_string() ? row[name].get<std::string>() : row[name].dump();
  }
  fail("{}: has no \"{}\"", place, *names.begin());
}

// Path, or base64, of a row's picture.
std::string picture_of(const Json& row, const std::string& place) {
  if (row.contains("image") && row["image"].is_object()) {
    const Json& image = row["image"];
    if (image.contains("bytes") && image["bytes"].is_string()) return image["bytes"].get<std::string>();
    return text_of(image, {"path"}, place + ": image");
  }
  return text_of(row, {"image_path", "image"}, place);
}

void append_line(std::string& lines, const Json& row) {
  lines += row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void write_rows(const std::string& path, const std::vector<Json>& rows) {
  std::string lines;
  for (const Json& row : rows) append_line(lines, row);
  write_file_atomic(path, lines);
}

std::string bullets(const std::vector<Claim>& claims, bool questions) {
  std::string text;
  for (const Claim& claim : claims) text += "- " + (questions ? claim.question : claim.text) + "\n";
  return text;
}

std::vector<std::string> list_of(const std::vector<Claim>& claims, bool questions) {
  std::vector<std::string> list;
  for (const Claim& claim : claims) list.push_back(questions ? claim.question : claim.text);
  return list;
}

std::string question_id(const PromptAnswers& prompt, const Answer& answer) {
  return fmt::format("{}-{}", prompt.index, answer.sample);
}

}  // namespace

PairFile::PairFile(const std::string& path) : file_(path) {
  const std::vector<Json> rows = read_jsonl(path);
  std::map<std::string, std::int64_t> known;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Json& row = rows[i];
    const std::string place = where(path, i);
    PreferencePair pair;
    pair.prompt_id = text_of(row, {"ds_question_id", "prompt_id", "idx"}, place);
    pair.question = text_of(row, {"question"}, place);
    pair.chosen = text_of(row, {"chosen"}, place);
    pair.rejected = text_of(row, {"rejected"}, place);
    const std::string picture = picture_of(row, place);
    const auto [found, is_new] = known.emplace(picture, static_cast<std::int64_t>(pictures_.size()));
    if (is_new) {
      const bool is_path = picture.size() <= kLongestPath;
      pictures_.push_back({is_path ? picture : "", is_path ? "" : picture});
    }
    pair.index = found->second;
    pairs_.push_back(std::move(pair));
  }
  PV_CHECK(!pairs_.empty(), "{}: holds no pair", path);
}

Image PairFile::picture(std::int64_t index) const {
  const Source& source = pictures_.at(static_cast<std::size_t>(index));
  if (source.encoded.empty()) return load_image((fs::path(file_).parent_path() / source.path).string());
  const std::string place = fmt::format("{}: picture {}", file_, index);
  const std::string bytes = decode_base64(source.encoded, place);
  return decode_image(std::as_bytes(std::span(bytes)), place);
}

void export_rlaifv(const std::string& folder,
                   const Prompts& prompts,
                   const std::string& model_path,
                   const std::string& out) {
  make_folders(out + "/images");
  const std::vector<PromptAnswers> answers = read_answers(folder + "/rollouts.jsonl");
  const bool has_claims = fs::exists(folder + "/claims.jsonl");
  const auto claims = has_claims ? read_claims(folder + "/claims.jsonl", answers) : std::vector<PromptClaims>{};
  const bool has_verdicts = has_claims && fs::exists(folder + "/verdicts.jsonl");
  const auto verdicts =
      has_verdicts ? read_verdicts(folder + "/verdicts.jsonl", claims) : std::vector<VerdictTable>{};
  std::vector<Json> answer_rows;
  std::vector<Json> judge_rows;
  std::map<std::int64_t, std::size_t> places;  // prompt number -> its place here
  for (std::size_t p = 0; p < answers.size(); ++p) {
    const PromptAnswers& prompt = answers[p];
    places[prompt.index] = p;
    if (!prompt.skipped.empty()) continue;
    const std::string image = fmt::format("images/{}.png", prompt.index);
    write_file_atomic(out + "/" + image, encode_png(prompts.at(prompt.index).image));
    for (std::size_t a = 0; a < prompt.answers.size(); ++a) {
      const Answer& answer = prompt.answers[a];
      Json row = {{"question_id", question_id(prompt, answer)},
                  {"ds_question_id", prompt.id},
                  {"raw_question", prompt.question},
                  {"answer", answer.text},
                  {"image_path", image},
                  {"metainfos", {{"index", prompt.index}, {"sample", answer.sample}, {"finished", answer.finished}}},
                  {"model_path", model_path}};
      if (has_claims) {
        const std::vector<Claim>& stated = claims[p].answers[a].claims;
        row["facts"] = list_of(stated, false);
        row["raw_facts"] = bullets(stated, false);
        row["changed_facts"] = list_of(stated, true);
        row["raw_changed_facts"] = bullets(stated, true);
        for (const Claim& claim : stated) {
          if (!has_verdicts) break;
          const Verdict& verdict = verdicts[p].at(claim.question);
          judge_rows.push_back({{"question_id", question_id(prompt, answer)},
                                {"ds_question_id", prompt.id},
                                {"raw_question", claim.question},
                                {"answer", verdict.accepted() ? "yes" : "no"},
                                // Both spellings together; which one it was is not kept.
                                {"scores", {{"yes", verdict.p_yes}, {"Yes", 0.0}, {"no", verdict.p_no}, {"No", 0.0}}},
                                {"metainfos",
                                 {{"origin_question", prompt.question},
                                  {"origin_answer", answer.text},
                                  {"origin_fact", claim.text},
                                  {"origin_changed_fact", claim.question}}}});
        }
      }
      answer_rows.push_back(std::move(row));
    }
  }
  write_rows(out + "/answers.jsonl", answer_rows);
  if (has_verdicts) write_rows(out + "/judged.jsonl", judge_rows);
  if (!fs::exists(folder + "/pairs.jsonl")) return;
  std::vector<Json> pair_rows;
  for (const Json& json : read_jsonl(folder + "/pairs.jsonl")) {
    const PreferencePair pair = PreferencePair::from_json(json);
    const std::size_t p = places.at(pair.index);
    const auto infos = [&](std::int64_t sample) -> Json {
      const auto& list = answers[p].answers;
      const auto found = std::find_if(list.begin(), list.end(), [&](const Answer& answer) { return answer.sample == sample; });
      if (!has_claims || found == list.end()) return Json::object();
      const auto& stated = claims[p].answers[static_cast<std::size_t>(found - list.begin())].claims;
      return {{"facts", list_of(stated, false)}, {"changed_facts", list_of(stated, true)}};
    };
    pair_rows.push_back({{"image_id", std::to_string(pair.index)},
                         {"image_path", fmt::format("images/{}.png", pair.index)},
                         {"ds_question_id", pair.prompt_id},
                         {"question", pair.question},
                         {"chosen", pair.chosen},
                         {"rejected", pair.rejected},
                         {"org_infos",
                          {{"chosen_infos", infos(pair.chosen_sample)},
                           {"rejected_infos", infos(pair.rejected_sample)},
                           {"scores",
                            {{"chosen", {{"score", pair.chosen_score}}},
                             {"rejected", {{"score", pair.rejected_score}}}}}}}});
  }
  write_rows(out + "/pairs.jsonl", pair_rows);
}

void import_rlaifv(const std::string& answers,
                   const std::string& judged,
                   const Prompts& prompts,
                   const std::string& folder) {
  make_folders(folder);
  std::map<std::string, std::int64_t> numbers;  // ds_question_id -> prompt
  std::vector<PromptAnswers> all;
  for (std::int64_t i = 0; i < prompts.size(); ++i) {
    const Picture picture = prompts.at(i);
    numbers[picture.id] = i;
    PromptAnswers prompt;
    prompt.index = i;
    prompt.id = picture.id;
    prompt.question = picture.question;
    prompt.picture_key = picture_key(picture.image);
    all.push_back(std::move(prompt));
  }
  std::map<std::string, std::pair<std::size_t, std::size_t>> places;  // question_id -> prompt, answer
  const std::vector<Json> answer_rows = read_jsonl(answers);
  for (std::size_t i = 0; i < answer_rows.size(); ++i) {
    const std::string place = where(answers, i);
    const std::string id = text_of(answer_rows[i], {"ds_question_id"}, place);
    const auto found = numbers.find(id);
    PV_CHECK(found != numbers.end(), "{}: ds_question_id \"{}\" is none of the instructions'", place, id);
    PromptAnswers& prompt = all[static_cast<std::size_t>(found->second)];
    Answer answer;
    answer.sample = static_cast<std::int64_t>(prompt.answers.size());
    answer.text = text_of(answer_rows[i], {"answer"}, place);
    places[text_of(answer_rows[i], {"question_id"}, place)] = {static_cast<std::size_t>(found->second),
                                                               prompt.answers.size()};
    prompt.answers.push_back(std::move(answer));
  }
  std::vector<PromptClaims> claims;
  std::vector<std::map<std::string, Verdict>> verdicts(all.size());
  for (PromptAnswers& prompt : all) {
    if (prompt.answers.empty()) prompt.skipped = "no answer in " + answers;
    claims.push_back({prompt.index, prompt.id, std::vector<AnswerClaims>(prompt.answers.size())});
  }
  const std::vector<Json> judge_rows = judged.empty() ? std::vector<Json>{} : read_jsonl(judged);
  for (std::size_t i = 0; i < judge_rows.size(); ++i) {
    const std::string place = where(judged, i);
    const Json& row = judge_rows[i];
    const std::string id = text_of(row, {"question_id"}, place);
    const auto found = places.find(id);
    PV_CHECK(found != places.end(), "{}: question_id \"{}\" is none of the answers'", place, id);
    const std::string question = text_of(row, {"raw_question"}, place);
    const Json infos = row.value("metainfos", Json::object());
    claims[found->second.first].answers[found->second.second].claims.push_back(
        {infos.value("origin_fact", question), question});
    Verdict verdict;
    try {
      const Json& scores = row.at("scores");
      verdict.p_yes = scores.value("yes", 0.0) + scores.value("Yes", 0.0);
      verdict.p_no = scores.value("no", 0.0) + scores.value("No", 0.0);
    } catch (const Json::exception& error) {
      fail("{}: scores: {}", place, error.what());
    }
    verdicts[found->second.first].emplace(question, verdict);
  }
  std::vector<Json> rollout_lines;
  std::vector<Json> claim_lines;
  std::vector<Json> verdict_lines;
  for (std::size_t p = 0; p < all.size(); ++p) {
    for (Json& row : to_rows(all[p])) rollout_lines.push_back(std::move(row));
    for (Json& row : to_rows(claims[p], all[p])) claim_lines.push_back(std::move(row));
    for (const std::string& question : claims[p].questions()) {
      const Verdict& verdict = verdicts[p].at(question);
      verdict_lines.push_back({{"prompt_id", all[p].id},
                               {"index", all[p].index},
                               {"question", question},
                               {"p_yes", verdict.p_yes},
                               {"p_no", verdict.p_no},
                               {"accepted", verdict.accepted()}});
    }
  }
  write_rows(folder + "/rollouts.jsonl", rollout_lines);
  if (judged.empty()) return;
  write_rows(folder + "/claims.jsonl", claim_lines);
  write_rows(folder + "/verdicts.jsonl", verdict_lines);
}

}  // namespace pocketvlm
