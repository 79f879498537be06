#include "rlaif/odd_cases.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "rlaif/jsonl_log.h"
#include "rlaif/plain_text.h"
#include "rlaif/sentences.h"

namespace pocketvlm {
namespace {

constexpr std::size_t kExamples = 5;
constexpr const char* kNeverPaired = "never paired: their end is not known";

struct Case {
  std::string what, effect;
  std::int64_t count = 0;
  Json examples = Json::array();

  void add(Json example) {
    ++count;
    if (examples.size() < kExamples) examples.push_back(std::move(example));
  }
};

class Report {
 public:
  explicit Report(std::string folder) : folder_(std::move(folder)) {}

  Json make() {
    sampling();
    splitting();
    judging();
    pairing();
    training();
    return list_;
  }

 private:
  std::vector<Json> rows(const char* file) const {
    const std::string path = folder_ + "/" + file;
    return std::filesystem::exists(path) ? read_jsonl(path) : std::vector<Json>{};
  }

  void list(const char* stage, const Case& one, std::int64_t of) {
    list_.push_back({{"stage", stage},
                     {"what", one.what},
                     {"count", one.count},
                     {"of", of},
                     {"effect", one.effect},
                     {"examples", one.examples}});
  }

  static Json place(const Json& row) {
    Json place = {{"index", row.at("index")}, {"prompt_id", row.at("prompt_id")}};
    if (row.contains("sample")) place["sample"] = row["sample"];
    return place;
  }

  void sampling() {
    const std::vector<Json> all = rows("rollouts.jsonl");
    if (all.empty()) return;
    Case skipped = {"prompts that could not be asked: the picture is missing or damaged, or the "
                    "prompt is too long",
                    "left out of the round"};
    std::map<std::string, Case> cut;
    for (const char* limit : {"max_new_tokens", "max_repeats", "language.max_positions"})
      cut[limit] = {std::string("answers cut at ") + limit, kNeverPaired};
    Case empty = {"answers without letters or digits", "they state nothing and are not paired"};
    Case marked = {"answers that hold an image mark", "judged and split without the mark"};
    Case equal = {"answers equal to an earlier one of their prompt",
                  "judged once; two equal answers are no pair"};
    std::set<std::int64_t> prompts;
    std::set<std::pair<std::int64_t, std::string>> texts;
    std::int64_t answers = 0;
    for (const Json& row : all) {
      const auto index = row.at("index").get<std::int64_t>();
      prompts.insert(index);
      if (row.contains("skipped")) {
        Json example = place(row);
        example["reason"] = row["skipped"];
        skipped.add(std::move(example));
        continue;
      }
      ++answers;
      const auto text = row.at("text").get<std::string>();
      if (!row.at("finished").get<bool>()) {
        const std::string limit = row.value("cut", "an unknown limit");
        cut.try_emplace(limit, Case{"answers cut at " + limit, kNeverPaired}).first->second.add(place(row));
      }
      if (!says_something(text)) empty.add(place(row));
      if (without_image_marks(text) != text) marked.add(place(row));
      if (!texts.emplace(index, text).second) equal.add(place(row));
    }
    list("sample", skipped, static_cast<std::int64_t>(prompts.size()));
    const std::int64_t repeated = std::filesystem::exists(folder_ + "/round.json")
                                      ? read_json(folder_ + "/round.json").value("repeated_prompts", std::int64_t{0})
                                      : 0;
    list("sample",
         {"prompts that an earlier round had, too: the rounds need more than there are", "asked again", repeated, Json::array()},
         static_cast<std::int64_t>(prompts.size()));
    for (const auto& [limit, one] : cut) list("sample", one, answers);
    for (const Case* one : {&empty, &marked, &equal}) list("sample", *one, answers);
  }

  void splitting() {
    const std::vector<Json> all = rows("claims.jsonl");
    if (all.empty()) return;
    Case silent = {"answers that state nothing", "not paired"};
    Case unread = {"answers whose claims could not be had from the splitter",
                   "not paired: they would seem to state nothing wrong"};
    for (const Json& row : all) {
      if (row.contains("problem")) {
        Json example = place(row);
        example["problem"] = row["problem"];
        unread.add(std::move(example));
      } else if (row.at("claims").empty()) {
        silent.add(place(row));
      }
    }
    const auto answers = static_cast<std::int64_t>(all.size());
    list("split", silent, answers);
    list("split", unread, answers);
  }

  void judging() {
    const std::vector<Json> all = rows("verdicts.jsonl");
    if (all.empty()) return;
    Case too_long = {"questions too long for the judge", "their claims count as rejected"};
    Case unread = {"judge output that is neither yes nor no", "their claims count as rejected"};
    Case refused = {"questions that the judge's server refused", "their claims count as rejected; most refused stop the round"};
    Case unsure = {"verdicts whose first word was yes or no with a probability below one half",
                   "they count as they are; many of them stop the round"};
    for (const Json& row : all) {
      Json example = place(row);
      example["question"] = row.at("question");
      if (row.contains("problem")) {
        example["problem"] = row["problem"];
        const auto problem = row["problem"].get<std::string>();
        (problem.starts_with("too long") ? too_long : problem.starts_with("refused") ? refused : unread).add(std::move(example));
      } else if (row.at("p_yes").get<double>() + row.at("p_no").get<double>() < 0.5) {
        unsure.add(std::move(example));
      }
    }
    for (const Case* one : {&too_long, &unread, &refused, &unsure})
      list("judge", *one, static_cast<std::int64_t>(all.size()));
  }

  // What the stage itself counted.
  void counted(const char* stage,
               const Json& counts,
               std::int64_t of,
               const std::map<std::string, const char*>& effects) {
    for (const auto& [what, effect] : effects)
      list(stage, {what, effect, counts.value(what, std::int64_t{0}), Json::array()}, of);
    for (const auto& item : counts.items()) {
      if (effects.count(item.key()) == 0)
        list(stage, {item.key(), "left out", item.value().get<std::int64_t>(), Json::array()}, of);
    }
  }

  void pairing() {
    const std::string path = folder_ + "/pair_report.json";
    if (!std::filesystem::exists(path)) return;
    const Json report = read_json(path);
    counted("pairs",
            report.at("dropped_answers"),
            report.at("answers").get<std::int64_t>(),
            {{"cut at max_new_tokens", "not paired"},
             {"cut at max_repeats", "not paired"},
             {"cut at language.max_positions", "not paired"},
             {"no claims", "not paired"},
             {"no claims from the splitter", "not paired"}});
    counted("pairs",
            report.at("dropped_pairs"),
            report.at("combinations").get<std::int64_t>(),
            {{"equal texts", "no pair: nothing is preferred"},
             {"scores too close", "no pair: nothing is preferred"},
             {"same words as a drawn pair", "drawn once"},
             {"more than max_pairs_per_prompt", "not drawn"},
             {"length control", "dropped: the rejected answer is much longer"}});
  }

  void training() {
    const std::string path = folder_ + "/train_report.json";
    if (!std::filesystem::exists(path)) return;
    const Json report = read_json(path);
    counted("train",
            report.at("dropped"),
            report.at("pairs").get<std::int64_t>(),
            {{"chosen and rejected are equal", "left out: nothing is preferred"},
             {"longer than language.max_positions", "left out, never cut: a cut picture would train blind"}});
  }

  std::string folder_;
  Json list_ = Json::array();
};

}  // namespace

Json odd_cases(const std::string& folder) { return Report(folder).make(); }

}  // namespace pocketvlm
