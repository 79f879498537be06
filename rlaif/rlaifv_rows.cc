#include "rlaif/rlaifv_rows.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <sstream>
#include <utility>

#include "base/base64.h"
#include "base/error.h"
#include "base/files.h"
#include "rlaif/content_key.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

std::string where(const std::string& path, std::size_t row) { return fmt::format("{}:{}", path, row + 1); }

std::string text_of(const Json& row, std::initializer_list<const char*> names, const std::string& place) {
  for (const char* name : names) {
    if (!row.contains(name) || row[name].is_null()) continue;
    return row[name].is_string() ? row[name].get<std::string>() : row[name].dump();
  }
  fail("{}: has no \"{}\"", place, *names.begin());
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

// "facts" and "changed_facts" are lists, or text with a line "- ..." each.
std::vector<std::string> lines_of(const Json& value, const std::string& place) {
  std::vector<std::string> lines;
  if (value.is_array()) {
    for (const Json& line : value) {
      PV_CHECK(line.is_string(), "{}: expected text in a list of facts, got {}", place, line.dump());
      lines.push_back(line.get<std::string>());
    }
    return lines;
  }
  PV_CHECK(value.is_string(), "{}: facts are neither a list nor text", place);
  std::istringstream text(value.get<std::string>());
  for (std::string line; std::getline(text, line);) {
    if (line.find("###") != std::string::npos || !says_something(line)) continue;
    lines.emplace_back(trimmed(line, " \t\r-*"));
  }
  return lines;
}

/// Rows of others on their way into a round's files.
class Import {
 public:
  Import(const Prompts& prompts, const RlaifConfig& config) : config_(config) {
    for (std::int64_t i = 0; i < prompts.size(); ++i) {
      PromptAnswers prompt;
      prompt.index = i;
      prompt.id = std::to_string(i);
      try {
        prompt.id = prompts.id(i);
        const Picture picture = prompts.at(i);
        prompt.question = picture.question;
        prompt.language = picture.language;
        prompt.picture_key = picture_key(picture.image);
      } catch (const Error& error) {
        prompt.skipped = error.what();
      }
      numbers_[prompt.id] = static_cast<std::size_t>(i);
      all_.push_back(std::move(prompt));
      claims_.push_back({i, all_.back().id, all_.back().picture_key, {}});
    }
    unread_.resize(all_.size());
    verdicts_.resize(all_.size());
  }

  void read_answers(const std::string& path) {
    const std::vector<Json> rows = read_jsonl(path);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::string place = where(path, i);
      const std::string id = text_of(rows[i], {"ds_question_id"}, place);
      const auto found = numbers_.find(id);
      PV_CHECK(found != numbers_.end(), "{}: ds_question_id \"{}\" is none of the instructions'", place, id);
      const std::size_t p = found->second;
      const std::string question_id = text_of(rows[i], {"question_id"}, place);
      if (!all_[p].skipped.empty()) {
        ++unread_[p];
        left_out_.insert(question_id);
        continue;
      }
      Answer answer;
      answer.sample = static_cast<std::int64_t>(all_[p].answers.size());
      answer.text = text_of(rows[i], {"answer"}, place);
      read_end(rows[i], place, answer);
      places_[question_id] = {p, all_[p].answers.size()};
      all_[p].answers.push_back(std::move(answer));
      claims_[p].answers.push_back(read_facts(rows[i], place));
    }
    for (PromptAnswers& prompt : all_) {
      if (prompt.answers.empty() && prompt.skipped.empty()) prompt.skipped = "no answer in " + path;
    }
  }

  void read_judged(const std::string& path) {
    const std::vector<Json> rows = read_jsonl(path);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::string place = where(path, i);
      const std::string id = text_of(rows[i], {"question_id"}, place);
      if (left_out_.count(id) != 0) continue;
      const auto found = places_.find(id);
      PV_CHECK(found != places_.end(), "{}: question_id \"{}\" is none of the answers'", place, id);
      const auto [p, a] = found->second;
      const Json infos = rows[i].value("metainfos", Json::object());
      // The judged text may have a suffix behind the question.
      const std::string question = infos.value("origin_changed_fact", text_of(rows[i], {"raw_question"}, place));
      std::vector<Claim>& stated = claims_[p].answers[a].claims;
      const bool known = std::any_of(stated.begin(), stated.end(), [&](const Claim& claim) { return claim.question == question; });
      if (!known) stated.push_back({infos.value("origin_fact", question), question});
      verdicts_[p].emplace(question, read_scores(rows[i], place));
    }
    for (std::size_t p = 0; p < all_.size(); ++p) {
      for (AnswerClaims& answer : claims_[p].answers) {
        const auto not_judged = std::erase_if(answer.claims, [&](const Claim& claim) {
          return verdicts_[p].count(claim.question) == 0;
        });
        if (not_judged > 0 && answer.problem.empty()) answer.problem = fmt::format("{} of its facts were not judged", not_judged);
      }
    }
  }

  // Writes the files; returns the report.
  Json write(const std::string& folder, bool with_verdicts) {
    std::vector<Json> rollout_lines;
    std::vector<Json> claim_lines;
    std::vector<Json> verdict_lines;
    Json report = {{"prompts", all_.size()}, {"answers", 0}, {"claims", 0}, {"left_out", Json::array()}, {"problems", 0}};
    std::int64_t answers = 0;
    std::int64_t claims = 0;
    std::int64_t problems = 0;
    for (std::size_t p = 0; p < all_.size(); ++p) {
      if (!all_[p].skipped.empty()) {
        report["left_out"].push_back(
            {{"index", all_[p].index}, {"prompt_id", all_[p].id}, {"reason", all_[p].skipped}, {"answers", unread_[p]}});
      }
      answers += static_cast<std::int64_t>(all_[p].answers.size());
      for (const AnswerClaims& answer : claims_[p].answers) {
        claims += static_cast<std::int64_t>(answer.claims.size());
        problems += answer.problem.empty() ? 0 : 1;
      }
      for (Json& row : to_rows(all_[p])) rollout_lines.push_back(std::move(row));
      for (Json& row : to_rows(claims_[p], all_[p])) claim_lines.push_back(std::move(row));
      if (!with_verdicts) continue;
      for (const std::string& question : claims_[p].questions())
        verdict_lines.push_back(to_row(claims_[p], question, verdicts_[p].at(question), config_.judge_margin));
    }
    write_rows(folder + "/rollouts.jsonl", rollout_lines);
    if (has_facts_ || with_verdicts) write_rows(folder + "/claims.jsonl", claim_lines);
    if (with_verdicts) write_rows(folder + "/verdicts.jsonl", verdict_lines);
    report["answers"] = answers;
    report["claims"] = claims;
    report["problems"] = problems;
    report["verdicts"] = verdict_lines.size();
    return report;
  }

 private:
  static void read_end(const Json& row, const std::string& place, Answer& answer) {
    if (!row.contains("metainfos") || !row["metainfos"].is_object()) return;
    const Json& infos = row["metainfos"];
    if (!infos.contains("finished")) return;
    PV_CHECK(infos["finished"].is_boolean(), "{}: metainfos.finished is neither true nor false", place);
    answer.finished = infos["finished"].get<bool>();
    if (!answer.finished) answer.cut = infos.value("cut", "an unknown limit");
  }

  AnswerClaims read_facts(const Json& row, const std::string& place) {
    AnswerClaims claims;
    if (!row.contains("facts") || row["facts"].is_null()) return claims;
    has_facts_ = true;
    const std::vector<std::string> facts = lines_of(row["facts"], place);
    const std::vector<std::string> questions = lines_of(row.value("changed_facts", Json::array()), place);
    if (facts.size() != questions.size()) {
      claims.problem = fmt::format("{} facts, but {} questions", facts.size(), questions.size());
      return claims;
    }
    for (std::size_t i = 0; i < facts.size(); ++i) claims.claims.push_back({facts[i], questions[i]});
    return claims;
  }

  static Verdict read_scores(const Json& row, const std::string& place) {
    Verdict verdict;
    try {
      const Json& scores = row.at("scores");
      verdict.p_yes = scores.value("yes", 0.0) + scores.value("Yes", 0.0);
      verdict.p_no = scores.value("no", 0.0) + scores.value("No", 0.0);
    } catch (const Json::exception& error) {
      fail("{}: scores: {}", place, error.what());
    }
    return verdict;
  }

  const RlaifConfig& config_;
  std::vector<PromptAnswers> all_;
  std::vector<PromptClaims> claims_;
  std::vector<std::int64_t> unread_;  // answers to prompts that are left out
  std::vector<std::map<std::string, Verdict>> verdicts_;
  std::map<std::string, std::size_t> numbers_;                          // ds_question_id -> prompt
  std::map<std::string, std::pair<std::size_t, std::size_t>> places_;   // question_id -> prompt, answer
  std::set<std::string> left_out_;                                      // question_ids
  bool has_facts_ = false;
};

// A turn as text, or as a list of one message whose content is text or parts of which the texts count (pictures stand in a field of
// their own).
std::string turn_of(const Json& row, const char* name, const std::string& role, const std::string& place) {
  PV_CHECK(row.contains(name), "{}: has no \"{}\"", place, name);
  if (row[name].is_string()) return row[name].get<std::string>();
  PV_CHECK(row[name].is_array() && row[name].size() == 1 && row[name][0].is_object() && row[name][0].value("role", Json()) == role,
           "{}: \"{}\" is neither text nor a list of one message of the {}",
           place,
           name,
           role);
  const Json content = row[name][0].value("content", Json());
  if (content.is_string()) return content.get<std::string>();
  PV_CHECK(content.is_array(), "{}: the content of \"{}\" is neither text nor a list of parts", place, name);
  std::string text;
  for (const Json& part : content) {
    if (part.is_object() && part.contains("text") && part["text"].is_string()) text += part["text"].get<std::string>();
  }
  return text;
}

// {"prompt", "completion", "label", "image" or "images": [one]}, as TRL's KTO takes them.
PreferencePair read_single(const Json& row, const std::string& place, std::size_t number) {
  PV_CHECK(row["label"].is_boolean(), "{}: \"label\" is neither true nor false", place);
  PreferencePair pair;
  pair.single = true;
  pair.prompt_id = row.contains("id") ? text_of(row, {"id"}, place) : std::to_string(number);
  pair.question = turn_of(row, "prompt", "user", place);
  (row["label"].get<bool>() ? pair.chosen : pair.rejected) = turn_of(row, "completion", "assistant", place);
  PV_CHECK(!pair.completion().empty(), "{}: the completion is empty", place);
  return pair;
}

PictureField picture_of(Json row, const std::string& place) {
  if (row.contains("images") && !row["images"].is_null()) {
    PV_CHECK(row["images"].is_array() && row["images"].size() == 1, "{}: \"images\" is no list of one picture", place);
    row["image"] = row["images"][0];
  }
  return picture_field(row, place);
}

}  // namespace

PairFile::PairFile(const std::string& path) : file_(path) {
  const std::vector<Json> rows = read_jsonl(path);
  std::map<std::string, std::int64_t> known;
  std::vector<std::string> keys;  // of the pictures
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Json& row = rows[i];
    const std::string place = where(path, i);
    PreferencePair pair;
    if (row.contains("label")) {
      pair = read_single(row, place, i);
    } else {
      pair.prompt_id = text_of(row, {"ds_question_id", "prompt_id", "idx"}, place);
      pair.question = text_of(row, {"question"}, place);
      pair.chosen = text_of(row, {"chosen"}, place);
      pair.rejected = text_of(row, {"rejected"}, place);
    }
    PV_CHECK(pairs_.empty() || pairs_.front().single == pair.single,
             "{}: single answers (\"label\") and pairs cannot stand in one file",
             place);
    const PictureField picture = picture_of(row, place);
    PV_CHECK(!picture.path.empty() || !picture.encoded.empty(), "{}: has neither \"image_path\" nor \"image\"", place);
    const auto [found, is_new] = known.emplace(picture.path + "\n" + picture.encoded, static_cast<std::int64_t>(pictures_.size()));
    if (is_new) {
      pictures_.push_back(picture);
      std::error_code missing;
      const std::string file = picture.encoded.empty() ? path_of(picture) : "";
      keys.push_back(content_key({file.empty() ? picture.encoded : fs::exists(file, missing) ? read_file(file) : "missing"}));
    }
    pair.index = found->second;
    pair.picture_key = keys[static_cast<std::size_t>(pair.index)];
    pairs_.push_back(std::move(pair));
  }
  PV_CHECK(!pairs_.empty(), "{}: holds no pair", path);
}

std::string PairFile::path_of(const PictureField& picture) const {
  return (fs::path(file_).parent_path() / picture.path).string();
}

Image PairFile::picture(std::int64_t index) const {
  const PictureField& source = pictures_.at(static_cast<std::size_t>(index));
  if (source.encoded.empty()) return load_image(path_of(source));
  const std::string place = fmt::format("{}: picture {}", file_, index);
  const std::string bytes = decode_base64(source.encoded, place);
  return decode_image(std::as_bytes(std::span(bytes)), place);
}

void export_rlaifv(const std::string& folder,
                   const Prompts& prompts,
                   const RlaifConfig& config,
                   const std::string& out) {
  make_folders(out + "/images");
  const std::vector<PromptAnswers> answers = read_answers(folder + "/rollouts.jsonl");
  const bool has_claims = fs::exists(folder + "/claims.jsonl");
  const auto claims = has_claims ? read_claims(folder + "/claims.jsonl", answers) : std::vector<PromptClaims>{};
  const bool has_verdicts = has_claims && fs::exists(folder + "/verdicts.jsonl");
  const auto verdicts =
      has_verdicts ? read_verdicts(folder + "/verdicts.jsonl", claims, config.judge_margin) : std::vector<VerdictTable>{};
  std::vector<Json> answer_rows;
  std::vector<Json> judge_rows;
  std::map<std::int64_t, std::size_t> places;  // prompt number -> its place here
  for (std::size_t p = 0; p < answers.size(); ++p) {
    const PromptAnswers& prompt = answers[p];
    places[prompt.index] = p;
    if (!prompt.skipped.empty()) continue;
    const std::string image = fmt::format("images/{}.png", prompt.index);
    write_file_atomic(out + "/" + image, encode_png(checked_picture(prompts, prompt.index, prompt.picture_key).image));
    for (std::size_t a = 0; a < prompt.answers.size(); ++a) {
      const Answer& answer = prompt.answers[a];
      Json row = {{"question_id", question_id(prompt, answer)},
                  {"ds_question_id", prompt.id},
                  {"raw_question", prompt.question},
                  {"answer", answer.text},
                  {"image_path", image},
                  {"metainfos", {{"index", prompt.index}, {"sample", answer.sample}, {"finished", answer.finished}}},
                  {"model_path", config.policy}};
      if (!answer.finished) row["metainfos"]["cut"] = answer.cut;
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
                                {"answer", verdict.accepted(config.judge_margin) ? "yes" : "no"},
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
  const std::vector<PreferencePair> pairs = read_pairs(folder + "/pairs.jsonl", answers);
  std::vector<Json> pair_rows;
  for (const PreferencePair& pair : pairs) {
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
Json import_rlaifv(const std::string& answers,
                   const std::string& judged,
                   const Prompts& prompts,
                   const RlaifConfig& config,
                   const std::string& folder) {
  make_folders(folder);
  Import rows(prompts, config);
  rows.read_answers(answers);
  if (!judged.empty()) rows.read_judged(judged);
  return rows.write(folder, !judged.empty());
}

}  // namespace pocketvlm
