#include "trainer/evaluation.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "base/files.h"
#include "base/log.h"
#include "base/progress.h"
#include "model/generation.h"

namespace pocketvlm {
namespace {

constexpr double kLowCoverage = 0.5;

void add_object(EvalItem& item, const std::string& name) {
  if (std::find(item.objects.begin(), item.objects.end(), name) == item.objects.end())
    item.objects.push_back(name);
}

Chat question_about(const Image& image, const std::string& question) {
  return {{{"user", question}}, {image}};
}

/// Chats as prompts, made by all threads: pictures are resized and cut here.
std::vector<EncodedChat> encode_prompts(
    const PromptEncoder& encoder,
    const std::vector<std::pair<const Image*, std::string>>& questions) {
  std::vector<EncodedChat> prompts(questions.size());
  at::parallel_for(0, static_cast<int64_t>(questions.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [image, question] = questions[static_cast<std::size_t>(i)];
      prompts[static_cast<std::size_t>(i)] = encoder.encode(question_about(*image, question), true);
    }
  });
  return prompts;
}

/// First tokens that mean yes and no, as they follow the generation prompt of this template.
struct AnswerIds {
  explicit AnswerIds(const PromptEncoder& encoder) {
    const Chat question{{{"user", "?"}}, {}};
    const std::size_t begin = encoder.encode(question, true).ids.size();
    const auto first_id = [&](const std::string& word) {
      Chat chat = question;
      chat.turns.push_back({"assistant", word});
      return encoder.encode(chat, false).ids.at(begin);
    };
    std::map<std::int32_t, std::string> words;
    for (const char* word : {"yes", "Yes", "no", "No"}) {
      const bool means_yes = word[0] == 'y' || word[0] == 'Y';
      const std::int32_t id = first_id(word);
      const auto [known, is_new] = words.emplace(id, word);
      if (is_new) {
        ids.push_back(id);
        is_yes.push_back(means_yes);
      } else {
        PV_CHECK(
            is_yes[static_cast<std::size_t>(std::find(ids.begin(), ids.end(), id) - ids.begin())] ==
                means_yes,
            "evaluation: \"{}\" and \"{}\" begin with the same token, so the first token cannot "
            "tell yes from no; use a "
            "vocabulary that knows these words",
            known->second,
            word);
      }
    }
  }

  std::vector<std::int32_t> ids;
  std::vector<bool> is_yes;
};

/// What a model says to yes/no questions, and how much probability the two words got.
struct YesNoAnswers {
  std::vector<bool> said_yes;
  double coverage = 0;  // sum of p(yes) + p(no)
};

YesNoAnswers ask_yes_no(LoadedModel& model,
                        const std::vector<EncodedChat>& prompts,
                        const AnswerIds& words) {
  YesNoAnswers answers;
  for (const std::vector<double>& log_probs :
       first_token_log_probs(model.model, prompts, words.ids)) {
    double yes = 0, no = 0;
    for (std::size_t i = 0; i < log_probs.size(); ++i)
      (words.is_yes[i] ? yes : no) += std::exp(log_probs[i]);
    answers.said_yes.push_back(yes > no);
    answers.coverage += yes + no;
  }
  return answers;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// What `make` says of each batch of items, on every rank: batches are dealt out one a rank, and none is computed in other
/// company than on one rank alone.
std::vector<Json> share_batches(const std::string& title,
                                std::size_t items,
                                const EvaluationConfig& config,
                                Communicator& ranks,
                                const std::function<Json(std::size_t begin, std::size_t end)>& make) {
  const auto batch = static_cast<std::size_t>(config.batch);
  const auto size = static_cast<std::size_t>(ranks.size());
  std::vector<Json> results;
  std::optional<Progress> progress;
  if (ranks.is_first()) progress.emplace(title, static_cast<int64_t>(items));
  for (std::size_t first = 0; first < items; first += size * batch) {
    const std::size_t begin = std::min(items, first + static_cast<std::size_t>(ranks.rank()) * batch);
    const std::size_t end = std::min(items, begin + batch);
    const std::string own = begin < end ? dump(make(begin, end)) : "";
    for (const std::string& text : ranks.gather_texts(own)) {
      if (!text.empty()) results.push_back(parse_json(text, "figures of another rank"));
    }
    if (progress) progress->update(static_cast<int64_t>(std::min(items, first + size * batch)));
  }
  return results;
}

std::vector<std::string> describe(LoadedModel& model,
                                  const std::vector<EvalItem>& items,
                                  const EvaluationConfig& config,
                                  Communicator& ranks) {
  SamplingConfig sampling;
  sampling.max_new_tokens = config.max_new_tokens;
  std::vector<std::string> answers;
  const auto describe_batch = [&](std::size_t begin, std::size_t end) {
    std::vector<std::pair<const Image*, std::string>> questions;
    for (std::size_t i = begin; i < end; ++i)
      questions.emplace_back(&items[i].image, config.prompt);
    const auto prompts = encode_prompts(*model.encoder, questions);
    Json texts = Json::array();
    for (const Generation& answer : generate_batch(model.model, *model.encoder, prompts, sampling)) texts.push_back(answer.text);
    return texts;
  };
  for (const Json& texts : share_batches("descriptions", items.size(), config, ranks, describe_batch)) {
    for (const Json& text : texts) answers.push_back(text.get<std::string>());
  }
  return answers;
}

/// Answers to the questions of one negative kind.
struct KindAnswers {
  std::vector<bool> truth, said_yes;
  void add(bool is_there, bool answer) {
    truth.push_back(is_there);
    said_yes.push_back(answer);
  }
  YesNoScore score() const { return score_yes_no(truth, said_yes); }
};

/// The questions about the items [begin, end): each about a picture is asked once, however many kinds it belongs to.
struct BatchQuestions {
  std::map<std::pair<std::size_t, int>, std::size_t> places;  // of item and class in `texts`
  std::vector<std::pair<const Image*, std::string>> texts;
};

BatchQuestions batch_questions(const std::vector<EvalItem>& items,
                               const std::vector<PopeQuestions>& questions,
                               const ObjectVocabulary& vocabulary,
                               std::size_t begin,
                               std::size_t end) {
  BatchQuestions batch;
  for (std::size_t i = begin; i < end; ++i) {
    const PopeQuestions& about = questions[i];
    for (const auto* kind : {&about.positive, &about.random, &about.popular, &about.adversarial}) {
      for (const int c : *kind) {
        if (!batch.places.emplace(std::pair(i, c), batch.texts.size()).second) continue;
        batch.texts.emplace_back(&items[i].image,
                                 presence_question(vocabulary.names()[static_cast<std::size_t>(c)]));
      }
    }
  }
  return batch;
}

void ask_pope(LoadedModel& model,
              const std::vector<EvalItem>& items,
              const std::vector<PopeQuestions>& questions,
              const ObjectVocabulary& vocabulary,
              const EvaluationConfig& config,
              Communicator& ranks,
              Evaluation& evaluation) {
  const AnswerIds words(*model.encoder);
  KindAnswers random, popular, adversarial;
  double coverage = 0;
  int64_t asked = 0;
  const auto ask_batch = [&](std::size_t begin, std::size_t end) {
    const BatchQuestions batch = batch_questions(items, questions, vocabulary, begin, end);
    const YesNoAnswers answers = ask_yes_no(model, encode_prompts(*model.encoder, batch.texts), words);
    return Json{{"begin", begin}, {"end", end}, {"said_yes", answers.said_yes}, {"coverage", answers.coverage}};
  };
  for (const Json& said : share_batches("yes/no questions", items.size(), config, ranks, ask_batch)) {
    const auto begin = said.at("begin").get<std::size_t>(), end = said.at("end").get<std::size_t>();
    const auto said_yes = said.at("said_yes").get<std::vector<bool>>();
    const auto places = batch_questions(items, questions, vocabulary, begin, end).places;
    coverage += said.at("coverage").is_null() ? std::nan("") : said.at("coverage").get<double>();
    asked += static_cast<int64_t>(said_yes.size());
    for (std::size_t i = begin; i < end; ++i) {
      const PopeQuestions& about = questions[i];
      const auto collect = [&](KindAnswers& kind, const std::vector<int>& negatives) {
        for (const int c : about.positive) kind.add(true, said_yes[places.at({i, c})]);
        for (const int c : negatives) kind.add(false, said_yes[places.at({i, c})]);
      };
      collect(random, about.random);
      collect(popular, about.popular);
      collect(adversarial, about.adversarial);
    }
  }
  evaluation.pope_random = random.score();
  evaluation.pope_popular = popular.score();
  evaluation.pope_adversarial = adversarial.score();
  evaluation.yes_no_coverage = asked > 0 ? coverage / static_cast<double>(asked) : 0.0;
  if (asked > 0 && evaluation.yes_no_coverage < kLowCoverage && ranks.is_first()) {
    spdlog::warn(
        "evaluation: yes and no get only {:.1f} % of the first token's probability; the yes/no "
        "figures mean little "
        "for this model",
        100 * evaluation.yes_no_coverage);
  }
}

}  // namespace

std::vector<EvalItem> eval_items(const SceneSource& source, int64_t count) {
  std::vector<EvalItem> items(static_cast<std::size_t>(count));
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Scene scene = source.scene(i);
      EvalItem& item = items[static_cast<std::size_t>(i)];
      item.id = std::to_string(i);
      item.image = source.draw(scene);
      for (const SceneObject& object : scene.objects) {
        add_object(item, source.class_names()[static_cast<std::size_t>(object.class_index)]);
      }
    }
  });
  return items;
}

ObjectVocabulary vocabulary_of_items(const std::vector<EvalItem>& items) {
  std::set<std::string> names;
  for (const EvalItem& item : items) names.insert(item.objects.begin(), item.objects.end());
  return vocabulary_of({names.begin(), names.end()});
}

std::vector<EvalItem> eval_items(const std::string& folder) {
  const std::string path = folder + "/truth.jsonl";
  PV_CHECK(std::filesystem::exists(path),
           "{}: has no truth.jsonl, which says what each picture holds; make such a folder with "
           "`pocketvlm data scenes`",
           folder);
  std::istringstream lines(read_file(path));
  std::vector<EvalItem> items;
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", path, number);
    const Json truth = parse_json(line, where);
    PV_CHECK(truth.is_object() && truth.contains("id") && truth["id"].is_string() &&
                 truth.contains("image") && truth.contains("objects") &&
                 truth["objects"].is_array(),
             "{}: expected an object with \"id\", \"image\" and \"objects\"",
             where);
    if (truth["image"].is_null()) continue;  // a sample of text alone
    PV_CHECK(
        truth["image"].is_string(), "{}: \"image\" must be a path relative to the folder", where);
    EvalItem item;
    item.id = truth["id"].get<std::string>();
    for (const Json& object : truth["objects"]) {
      PV_CHECK(object.is_object() && object.contains("name") && object["name"].is_string(),
               "{}: every object needs a \"name\"",
               where);
      add_object(item, object["name"].get<std::string>());
    }
    try {
      item.image = load_image(folder + "/" + truth["image"].get<std::string>());
    } catch (const Error& error) {
      spdlog::warn("{}: left out: {}", where, error.what());
      continue;
    }
    items.push_back(std::move(item));
  }
  PV_CHECK(!items.empty(), "{}: names no usable picture", path);
  return items;
}

Json Evaluation::to_json() const {
  return {{"chair_i", chair_i},
          {"chair_s", chair_s},
          {"object_recall", object_recall},
          {"pope",
           {{"random", pope_random.to_json()},
            {"popular", pope_popular.to_json()},
            {"adversarial", pope_adversarial.to_json()}}},
          {"mean_answer_words", mean_answer_words},
          {"yes_no_coverage", yes_no_coverage},
          {"pictures", answers.size()}};
}

Evaluation evaluate(LoadedModel& model,
                    const std::vector<EvalItem>& items,
                    const ObjectVocabulary& vocabulary,
                    const EvaluationConfig& config,
                    Communicator* ranks) {
  Communicator alone{Communicator::Alone()};
  if (ranks == nullptr) ranks = &alone;
  PV_CHECK(!items.empty(), "evaluation: no picture to evaluate on");
  const torch::NoGradGuard no_grad;
  const ComputeDtype guard(config.compute_dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32);
  std::vector<std::vector<std::string>> objects;
  for (const EvalItem& item : items) objects.push_back(item.objects);
  const std::vector<std::vector<int>> present = class_indices(objects, vocabulary);

  Evaluation evaluation;
  evaluation.answers = describe(model, items, config, *ranks);
  const ChairScore chair = score_answers(present, evaluation.answers, vocabulary);
  evaluation.chair_i = chair.chair_i;
  evaluation.chair_s = chair.chair_s;
  evaluation.object_recall = chair.object_recall;
  evaluation.mean_answer_words = chair.mean_answer_words;
  const auto num_classes = static_cast<int64_t>(vocabulary.names().size());
  const auto questions = pope_questions(present, num_classes, config.pope_per_image, config.seed);
  ask_pope(model, items, questions, vocabulary, config, *ranks, evaluation);
  return evaluation;
}

}  // namespace pocketvlm
