#include "rlaif/annotated_set.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "tiny_round.h"
#include "trainer/hallucination.h"

namespace pocketvlm {
namespace {

std::string written(const std::string& name, const char* json) {
  const std::string path = test::test_folder() + "/" + name;
  write_file_atomic(path, json);
  return path;
}

constexpr const char* kSet = R"({
 "objects": {"dog": ["puppy"], "cat": [], "traffic light": ["stoplight"], "car": []},
 "descriptions": [
  {"id": "1", "answer": "A puppy and a cat. The cat sleeps.", "objects": ["dog"], "targets": ["cat"]},
  {"id": "2", "answer": "Two cars at a stoplight.", "objects": ["car", "traffic light", "dog"]},
  {"id": "3", "answer": "Nothing much.", "objects": ["dog"]}],
 "questions": [
  {"id": "1", "answer": "Yes", "truth": "yes", "kind": "attribute"},
  {"id": "2", "answer": "No.", "truth": "no", "kind": "existence"},
  {"id": "3", "answer": "Yes", "truth": "no", "kind": "existence"},
  {"id": "4", "answer": "There is, I think, not one.", "truth": "no", "kind": "existence"}]})";

// By hand: mentions are dog, cat, cat | car, traffic light | none.
TEST(AnnotatedSet, IsScoredAsThePapersSay) {
  const Json figures = score_annotated_set(written("set.json", kSet));
  EXPECT_DOUBLE_EQ(figures.at("chair").at("chair_i").get<double>(), 2.0 / 5);  // repeats count
  EXPECT_DOUBLE_EQ(figures.at("chair").at("chair_s").get<double>(), 1.0 / 3);  // of all answers
  EXPECT_DOUBLE_EQ(figures.at("chair").at("object_recall").get<double>(), 3.0 / 5);
  const Json& objects = figures.at("object_halbench");
  EXPECT_DOUBLE_EQ(objects.at("response_rate").get<double>(), 1.0 / 2);  // of answers with an object
  EXPECT_DOUBLE_EQ(objects.at("mention_rate").get<double>(), 1.0 / 4);   // distinct in an answer
  EXPECT_EQ(objects.at("answers"), 2);
  const Json& amber = figures.at("amber").at("generative");
  EXPECT_DOUBLE_EQ(amber.at("chair").get<double>(), 0.25);
  EXPECT_DOUBLE_EQ(amber.at("cover").get<double>(), (1.0 + 2.0 / 3 + 0) / 3);
  EXPECT_DOUBLE_EQ(amber.at("hal").get<double>(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(amber.at("cog").get<double>(), 0.25);  // the cat is a target
  // POPE reads "not" as no; AMBER wants the very words.
  EXPECT_DOUBLE_EQ(figures.at("pope").at("accuracy").get<double>(), 3.0 / 4);
  const Json& words = figures.at("amber").at("discriminative");
  EXPECT_DOUBLE_EQ(words.at("accuracy").get<double>(), 2.0 / 4);
  EXPECT_DOUBLE_EQ(words.at("precision").get<double>(), 1.0);  // "no" is what is looked for
  EXPECT_DOUBLE_EQ(words.at("recall").get<double>(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(figures.at("amber").at("score").get<double>(), (0.75 + 0.5) / 2);
  const Json& existence = figures.at("kinds").at("existence");
  EXPECT_EQ(existence.at("recall"), existence.at("accuracy"));  // all gold answers are no
}

// CHAIR's table: lines whose first word is the object, plurals of every kind, names of several words, and its rules for animals, trains
// and toilets.
TEST(AnnotatedSet, TakesATableAsChairHasIt) {
  written("synonyms.txt",
          "person, man, woman, child, baby, passenger\nelephant, baby elephant\ntrain, passenger train\ndog, puppy\nhot dog\n"
          "chair, seat, stool\ntoilet, toilet seat\nknife\n\nsheep\n");
  const auto names = [](const std::string& answer, const std::string& object, const std::string& more = "") {
    const std::string json = R"({"objects": "synonyms.txt", "descriptions": [{"objects": [")" + object + R"("], "answer": ")" + answer +
                             "\"}]" + more + "}";
    const Json chair = score_annotated_set(written("table.json", json.c_str())).at("chair");
    return chair.at("object_recall").get<double>() == 1.0 && chair.at("chair_i").get<double>() == 0.0;  // that object alone
  };
  const std::vector<std::pair<const char*, const char*>> table = {
      {"Two men.", "person"},         {"Many children and women.", "person"}, {"Knives.", "knife"},
      {"Three sheep.", "sheep"},      {"A baby elephant.", "elephant"},       {"Baby elephants!", "elephant"},
      {"A passenger train.", "train"}, {"Hot dogs.", "hot dog"},               {"Puppies.", "dog"},
      {"A toilet seat.", "toilet"},   {"STOOLS", "chair"}};
  for (const auto& [answer, object] : table) EXPECT_TRUE(names(answer, object)) << answer;
  EXPECT_FALSE(names("A hot dog and a dog.", "hot dog"));
  EXPECT_FALSE(names("A category of mankind.", "person"));
  // "drop seat when toilet present": wherever the two stand.
  const std::string rule = R"(, "not_beside": {"seat": ["toilet"]})";
  EXPECT_FALSE(names("A toilet with a white seat.", "toilet"));
  EXPECT_TRUE(names("A toilet with two white seats.", "toilet", rule));
  EXPECT_TRUE(names("A white seat.", "chair", rule));
  EXPECT_FALSE(names("A toilet and a stool.", "toilet", rule));
}

TEST(AnnotatedSet, TakesATableInAnotherLanguage) {
  written("german.json", R"({"Hund": ["Hunde", "H\u00fcndin"], "Hot Dog": [], "Stuhl": ["St\u00fchle"]})");
  const Json figures = score_annotated_set(written(
      "german-set.json",
      R"({"objects": "german.json", "descriptions": [{"answer": "Zwei hunde, eine H\u00fcndin und St\u00fchle.", "objects": ["Hund"]}]})"));
  EXPECT_DOUBLE_EQ(figures.at("chair").at("chair_i").get<double>(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(figures.at("chair").at("object_recall").get<double>(), 1.0);
}

TEST(AnnotatedSet, NamesFilePlaceAndCure) {
  const auto error = [](const char* json) {
    const std::string path = written("bad.json", json);
    return test::error_of([&] { score_annotated_set(path); });
  };
  const std::string unknown =
      error(R"({"objects": {"dog": []}, "descriptions": [{"answer": "", "objects": ["dgo"]}]})");
  EXPECT_NE(unknown.find("bad.json.descriptions[0].objects: \"dgo\""), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("did you mean \"dog\"?"), std::string::npos) << unknown;
  EXPECT_NE(error(R"({"questions": [{"answer": "Yes", "truth": "maybe"}]})").find("neither yes nor no"), std::string::npos);
  EXPECT_NE(error(R"({"descriptions": [{"answer": "a dog"}]})").find("needs \"objects\""), std::string::npos);
  EXPECT_NE(error(R"({"objects": {}})").find("neither \"descriptions\" nor \"questions\""), std::string::npos);
  written("twice.txt", "dog, puppy\ndog, hound\n");
  EXPECT_NE(error(R"({"objects": "twice.txt"})").find("twice.txt:2: \"dog\" stands there twice"), std::string::npos);
  EXPECT_NE(error(R"({"objects": "none.json"})").find("none.json"), std::string::npos);
  EXPECT_NE(error(R"({"objects": [1]})").find("or the name of a file with one"), std::string::npos);
  EXPECT_NE(error(R"({"objects": {"dog": []}, "not_beside": {"cat": ["dog"]}})").find("\"cat\" is no word of the objects"), std::string::npos);
  EXPECT_NE(error(R"({"objects": {"dog": []}, "not_beside": [1]})").find("not_beside: expected an object"), std::string::npos);
  EXPECT_NE(error(R"({"objects": {"dog": []}, "not_beside": {"dog": ["cat"]}})").find("\"cat\" is none of"), std::string::npos);
  EXPECT_NE(error(R"([1])").find("expected an object"), std::string::npos);
}

TEST(PopeParser, ReadsAsTheScriptDoes) {
  for (const char* yes : {"Yes", "yes, there is", "", "Maybe", "Yes. No", "Nothing", "none", "NO"})
    EXPECT_TRUE(pope_says_yes(yes)) << yes;
  for (const char* no : {"No", "no", "No, there is not", "There is not a dog", "It is no, dog"})
    EXPECT_FALSE(pope_says_yes(no)) << no;
}

}  // namespace
}  // namespace pocketvlm
