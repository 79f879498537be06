#include "trainer/evaluation.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/files.h"
#include "tiny_stage.h"

namespace pocketvlm {
namespace {

ScenesConfig scenes() {
  ScenesConfig config = test::tiny_stage("evaluation").data.sources[0].scenes;
  config.tasks = {{"detailed", 1.0}};
  return config;
}

TEST(EvalItems, OfAFolderAreThoseOfItsStream) {
  const SceneSource source(scenes(), 11);
  const std::string folder = test::test_folder() + "/eval-items";
  write_scenes(source, 5, folder, false);
  const auto streamed = eval_items(source, 5);
  const auto read = eval_items(folder);
  ASSERT_EQ(read.size(), streamed.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].image.rgb, streamed[i].image.rgb);
    EXPECT_EQ(read[i].objects, streamed[i].objects);
    EXPECT_FALSE(read[i].objects.empty());
  }
}

TEST(EvalItems, NameWhatIsWrongWithAFolder) {
  const std::string folder = test::test_folder() + "/eval-broken";
  make_folders(folder);
  EXPECT_NE(test::error_of([&] { eval_items(folder); }).find("has no truth.jsonl"),
            std::string::npos);
  write_file_atomic(folder + "/truth.jsonl",
                    "{\"id\": \"a\", \"image\": null, \"objects\": []}\n{\"id\": 3}\n");
  EXPECT_NE(test::error_of([&] { eval_items(folder); }).find("truth.jsonl:2"), std::string::npos);
  write_file_atomic(folder + "/truth.jsonl",
                    "{\"id\": \"a\", \"image\": \"gone.png\", \"objects\": []}\n");
  EXPECT_NE(test::error_of([&] { eval_items(folder); }).find("no usable picture"),
            std::string::npos);
}

TEST(Evaluate, GivesTheContractsKeysAndTheSameFiguresEachTime) {
  LoadedModel model = test::tiny_model(1);
  const SceneSource source(scenes(), 11);
  const auto items = eval_items(source, 6);
  const ObjectVocabulary vocabulary = scene_vocabulary(scenes());
  EvaluationConfig config;
  config.max_new_tokens = 8;
  config.batch = 4;
  config.pope_per_image = 2;
  const Evaluation evaluation = evaluate(model, items, vocabulary, config);
  const Json json = evaluation.to_json();
  for (const char* key : {"chair_i", "chair_s", "object_recall", "mean_answer_words"}) {
    EXPECT_TRUE(json.at(key).is_number()) << key;
  }
  std::size_t expected = 0;
  for (const EvalItem& item : items) expected += 2 * std::min<std::size_t>(2, item.objects.size());
  for (const char* kind : {"random", "popular", "adversarial"}) {
    EXPECT_EQ(json.at("pope").at(kind).at("questions"), expected) << kind;
    EXPECT_LE(json.at("pope").at(kind).at("accuracy").get<double>(), 1.0);
  }
  EXPECT_EQ(evaluation.answers.size(), items.size());
  EXPECT_GT(evaluation.yes_no_coverage, 0.0);
  EXPECT_LE(evaluation.yes_no_coverage, 1.0 + 1e-6);

  config.batch = 1;
  EXPECT_EQ(evaluate(model, items, vocabulary, config).pope_random.accuracy,
            evaluation.pope_random.accuracy);
}

}  // namespace
}  // namespace pocketvlm
