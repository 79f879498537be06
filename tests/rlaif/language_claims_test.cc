#include "rlaif/language_claims.h"

#include <gtest/gtest.h>

#include "data/scenes/cldr_names.h"
#include "data/scenes/language_patterns.h"
#include "data/scenes/scene_text.h"
#include "rlaif/truth.h"

namespace pocketvlm {
namespace {

using List = std::vector<std::string>;

List questions_of(const std::string& answer, const std::string& language = "") {
  List questions;
  for (const Claim& claim : split_claims(answer, language)) questions.push_back(claim.question);
  return questions;
}

/// Every language of the world beside English.
class EveryLanguage : public testing::TestWithParam<std::string> {
 protected:
  EveryLanguage() {
    config_.widths = config_.heights = {96};
    config_.num_classes = 24;
    config_.max_objects = 4;
    config_.backgrounds = "plain";
    config_.sign_probability = 0.5;
    config_.tasks = {{"detailed", 1.0}};
    config_.languages = {{language_, 1.0}};
  }

  std::string say(const Query& query, const SceneFacts& facts, const List& names, bool question) const {
    const QuestionAnswer said = say_in_pattern(language_, query, facts, names);
    return question ? said.question : said.answer;
  }

  const std::string language_ = GetParam();
  ScenesConfig config_;
};

std::vector<std::string> all_languages() {
  std::vector<std::string> languages;
  for (const auto& [language, patterns] : language_patterns()) languages.push_back(language);
  return languages;
}
INSTANTIATE_TEST_SUITE_P(World, EveryLanguage, testing::ValuesIn(all_languages()), [](const auto& info) { return info.param; });

// The judge learns its questions from the embedded world; each class, place and number is asked about as there.
TEST_P(EveryLanguage, AsksInTheWordsOfTheTrainingData) {
  const std::vector<ObjectClass>& classes = curated_classes("emoji");
  const List names = class_names_in(language_, classes, "test");
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const int object = static_cast<int>(i);
    Query query;
    query.class_index = object;
    query.count = 3;
    const auto ask = [&](Query::Kind kind, int cell) {
      query.kind = kind;
      query.cell = cell;
      return say(query, {}, names, true);
    };
    for (int cell = 0; cell < 9; ++cell) {
      SceneFacts facts;
      facts.groups = {{object, cell, 1}};
      Query detailed;
      detailed.kind = Query::kDetailed;
      EXPECT_EQ(questions_of(say(detailed, facts, names, false)),
                List({ask(Query::kExists, -1), ask(Query::kExistsAt, cell)}));
      facts.groups[0].count = 2;
      const List counted = questions_of(say(detailed, facts, names, false));
      ASSERT_EQ(counted.size(), 3U) << say(detailed, facts, names, false);
      EXPECT_EQ(counted[1], ask(Query::kExistsAt, cell));
    }
    const int other = static_cast<int>((i + 1) % classes.size());
    Query caption;
    caption.kind = Query::kCaption;
    caption.items = {{object, 3}, {other, 1}};
    query.class_index = other;
    const std::string about_other = ask(Query::kExists, -1);
    query.class_index = object;
    EXPECT_EQ(questions_of(say(caption, {}, names, false)),
              List({ask(Query::kExists, -1), ask(Query::kExactCount, -1), about_other}))
        << say(caption, {}, names, false);
  }
}

TEST_P(EveryLanguage, AsksAboutSignsAsTheTrainingDataDo) {
  const List names = {"x"};
  Query query;
  query.kind = Query::kSignSays;
  query.text = "STOP 7";
  query.cell = 2;
  const std::string says = say(query, {}, names, true);
  query.kind = Query::kSignAt;
  const std::string at = say(query, {}, names, true);
  const auto question = read_pattern_question(says);
  ASSERT_TRUE(question.has_value());
  EXPECT_EQ(question->language, language_);
  EXPECT_EQ(question->writing, "STOP 7");
  ASSERT_TRUE(read_pattern_question(at).has_value());
  EXPECT_EQ(read_pattern_question(at)->cell, 2);
  EXPECT_EQ(read_pattern_question(at)->name, "");
}

TEST_P(EveryLanguage, DescriptionsOfTheWorldAreTrueAndSwappedObjectsFalse) {
  const SceneSource source(config_, 7);
  const std::vector<ObjectClass> classes = selected_classes(config_, "test");
  const List names = class_names_in(language_, classes, "test");
  const ObjectVocabulary vocabulary = scene_vocabulary(config_);
  std::size_t claims = 0, places = 0, numbers = 0, swapped = 0;
  for (std::int64_t i = 0; i < 40; ++i) {
    const Sample sample = source.with_task(i, "detailed", language_);
    const auto truth = [&](const Claim& claim) { return truth_of(claim.question, sample.truth, 96, 96, vocabulary); };
    for (const char* task : {"detailed", "caption"}) {
      const std::string answer = source.with_task(i, task, language_).chat.turns.at(1).content;
      for (const Claim& claim : split_claims(answer)) {
        EXPECT_EQ(truth(claim), true) << claim.question << " of " << answer;
        const auto question = read_pattern_question(claim.question);
        ASSERT_TRUE(question.has_value()) << claim.question;
        EXPECT_EQ(question->language, language_) << answer;
        ++claims;
        places += question->cell >= 0 ? 1 : 0;
        numbers += question->count > 0 ? 1 : 0;
      }
    }
    SceneFacts facts = facts_of(source.scene(i));
    if (facts.groups.empty()) continue;
    int absent = 0;
    while (facts.count_of(absent) > 0) ++absent;
    facts.groups.back().class_index = absent;
    Query query;
    query.kind = Query::kDetailed;
    const std::string lie = say(query, facts, names, false);
    for (const Claim& claim : split_claims(lie)) {
      const bool about_it = read_pattern_question(claim.question)->name == names[static_cast<std::size_t>(absent)];
      EXPECT_EQ(truth(claim), !about_it) << claim.question << " of " << lie;
      swapped += about_it ? 1 : 0;
    }
  }
  EXPECT_GT(claims, 200U);
  EXPECT_GT(places, 60U);
  EXPECT_GT(numbers, 3U);
  EXPECT_GE(swapped, 60U);
}

TEST_P(EveryLanguage, AgreesWithTheAnswersOfItsOwnYesNoTask) {
  const SceneSource source(config_, 11);
  const ObjectVocabulary vocabulary = scene_vocabulary(config_);
  std::size_t known = 0;
  for (std::int64_t i = 0; i < 60; ++i) {
    const Sample sample = source.with_task(i, "yes_no", language_);
    const auto truth = truth_of(sample.chat.turns.at(0).content, sample.truth, 96, 96, vocabulary);
    if (!truth) continue;
    ++known;
    EXPECT_EQ(sample.chat.turns.at(1).content,
              *truth ? language_patterns().at(language_).yes : language_patterns().at(language_).no)
        << sample.chat.turns.at(0).content;
  }
  EXPECT_GT(known, 40U);  // not known: where the sign is
}

TEST_P(EveryLanguage, LeavesTheRestWhole) {
  const std::string nothing = language_patterns().at(language_).nothing;
  const std::vector<Claim> claims = split_claims(nothing, language_);
  ASSERT_EQ(claims.size(), 1U);
  EXPECT_TRUE(claims[0].question.starts_with("is it true that ")) << claims[0].question;
}

TEST(LanguageClaims, ReadHowPeopleSayIt) {
  EXPECT_EQ(questions_of("图片里有一只猫。左边有一只狗。"), List({"图中有猫吗？", "图中有狗吗？", "左边有狗吗？"}));
  EXPECT_EQ(questions_of("Auf dem Bild ist ein Hund und eine Katze."),
            List({"Ist das auf dem Bild: Hund?", "Ist das auf dem Bild: Katze?"}));
  EXPECT_EQ(questions_of("Links ist ein Hund."), List({"Ist das auf dem Bild: Hund?", "Ist das links: Hund?"}));
  EXPECT_EQ(questions_of("Sur l'image, il y a un chat."), List({"Y a-t-il ceci sur l'image : chat ?"}));
  EXPECT_EQ(questions_of("En la imagen hay un gato y una manzana."),
            List({"¿Está esto en la imagen: gato?", "¿Está esto en la imagen: manzana?"}));
}

TEST(LanguageClaims, ReadWhatSignsSay) {
  EXPECT_EQ(questions_of("oben: Schild. Auf dem Schild steht STOP."),
            List({"Ist das auf dem Bild: Schild?", "Ist ein Schild oben?", "Steht STOP auf dem Schild?"}));
  EXPECT_EQ(questions_of("牌子上写着STOP。"), List({"牌子上写着STOP吗？"}));
  const ObjectVocabulary vocabulary({"cat"}, {});
  const Json truth = {{"objects", Json::array()}, {"sign", "STOP"}};
  EXPECT_EQ(truth_of("Steht STOP auf dem Schild?", truth, 90, 90, vocabulary), true);
  EXPECT_EQ(truth_of("Steht GO auf dem Schild?", truth, 90, 90, vocabulary), false);
  EXPECT_EQ(truth_of("Ist das auf dem Bild: Schild?", truth, 90, 90, vocabulary), true);
  EXPECT_EQ(truth_of("Ist ein Schild oben?", truth, 90, 90, vocabulary), std::nullopt);
  EXPECT_EQ(truth_of("Ist das auf dem Bild: Katze?", truth, 90, 90, vocabulary), std::nullopt);  // names are not known
}

TEST(LanguageClaims, DoNotReadSentencesAsLists) {
  for (const char* answer : {"Auf dem Bild ist kein Hund.", "Auf dem Bild ist ein Hund auf dem Sofa.", "Der Hund schläft.",
                             "左边有一只狗在睡觉。", "图中没有猫。", "Il y a un chat qui dort.", "En la imagen hay nieve."}) {
    const List questions = questions_of(answer);
    ASSERT_EQ(questions.size(), 1U) << answer;
    EXPECT_TRUE(questions[0].starts_with("is it true that ")) << questions[0];
  }
}

TEST(LanguageClaims, FollowTheLanguageThatIsGiven) {
  EXPECT_EQ(questions_of("links: Hund.", "de"), List({"Ist das auf dem Bild: Hund?", "Ist das links: Hund?"}));
  EXPECT_EQ(questions_of("links: Hund.", "fr"), List({"is it true that links: hund?"}));
  EXPECT_EQ(questions_of("a cat", "en"), List({"is there a cat in the picture?"}));
  EXPECT_EQ(questions_of("a cat", "de"), List({"is it true that a cat?"}));
  // Most of the sentences decide.
  EXPECT_EQ(questions_of("a cat. a dog. links: Hund."),
            List({"is there a cat in the picture?", "is there a dog in the picture?", "is it true that links: hund?"}));
  EXPECT_EQ(questions_of("a sinistra: gatto."), List({"C'è questo nell'immagine: gatto?", "C'è questo a sinistra: gatto?"}));
}

}  // namespace
}  // namespace pocketvlm
