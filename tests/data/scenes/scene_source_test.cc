#include "data/scenes/scene_source.h"

#include <algorithm>
#include <array>
#include <set>
#include <thread>

#include "data/scenes/object_classes.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

std::string bytes_of(const Sample& sample) {
  std::string bytes = sample.id + "|" + sample.task + "|" + sample.language + "|" + sample.truth.dump();
  for (const Turn& turn : sample.chat.turns) bytes += "|" + turn.role + ":" + turn.content;
  for (const Image& image : sample.chat.images) bytes.append(image.rgb.begin(), image.rgb.end());
  return bytes;
}

TEST(SceneSource, SameSeedGivesSameBytesInAnyInstanceOrderAndThread) {
  ScenesConfig config = every_task();
  config.languages = {{"en", 3}, {"zh", 1}, {"sw", 1}};
  config.widths = {112, 160};
  config.heights = {112, 96};
  const SceneSource first(config, 42);
  constexpr int kCount = 80;
  std::vector<std::string> expected;
  for (int i = 0; i < kCount; ++i) expected.push_back(bytes_of(first.at(i)));
  const SceneSource second(config, 42);
  std::vector<std::thread> threads;
  std::array<std::vector<std::string>, 4> seen;
  for (std::size_t t = 0; t < seen.size(); ++t) {
    threads.emplace_back([&, t] {
      seen[t].resize(kCount);
      for (int k = 0; k < kCount; ++k) {
        const int i = t % 2 == 0 ? kCount - 1 - k : (k * 7) % kCount;
        seen[t][static_cast<std::size_t>(i)] = bytes_of((t < 2 ? first : second).at(i));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& bytes : seen) EXPECT_EQ(bytes, expected);
  EXPECT_NE(bytes_of(SceneSource(config, 43).at(0)), expected[0]);
}

TEST(SceneSource, TruthTellsWhatIsDrawn) {
  ScenesConfig config = every_task();
  const SceneSource source(config, 9);
  for (int i = 0; i < 100; ++i) {
    const Sample sample = source.at(i);
    const Scene scene = source.scene(i);
    ASSERT_EQ(sample.truth["objects"].size(), scene.objects.size());
    std::map<std::string, int> counts;
    for (std::size_t k = 0; k < scene.objects.size(); ++k) {
      const SceneObject& object = scene.objects[k];
      const std::string& name = source.class_names()[static_cast<std::size_t>(object.class_index)];
      EXPECT_EQ(sample.truth["objects"][k]["name"], name);
      EXPECT_EQ(sample.truth["objects"][k]["box"], Json({object.x, object.y, object.width, object.height}));
      ++counts[name];
    }
    EXPECT_EQ(sample.truth["counts"].size(), counts.size());
    EXPECT_EQ(sample.truth["classes"].size(), counts.size());
    for (const auto& [name, count] : counts) EXPECT_EQ(sample.truth["counts"][name], count);
    EXPECT_EQ(sample.truth["sign"].is_null(), scene.sign_text.empty());
    if (sample.task != "text") {
      EXPECT_EQ(sample.chat.images.at(0).rgb, source.draw(scene).rgb);
    }
  }
}

TEST(SceneSource, TasksAndLanguagesComeInTheirShares) {
  ScenesConfig config;
  config.tasks = {{"caption", 3}, {"text", 1}, {"vqa", 0}};
  config.languages = {{"en", 1}, {"fr", 1}};
  const SceneSource source(config, 4);
  std::map<std::string, int> tasks, languages;
  for (int i = 0; i < 2000; ++i) {
    const Sample sample = source.at(i);
    ++tasks[sample.task];
    ++languages[sample.language];
    EXPECT_EQ(sample.chat.images.empty(), sample.task == "text");
  }
  EXPECT_NEAR(tasks["caption"], 1500, 80);
  EXPECT_EQ(tasks["caption"] + tasks["text"], 2000);
  EXPECT_NEAR(languages["fr"], 1000, 90);
}

TEST(SceneSource, ALanguageOfNamesAloneOnlyGetsTasksItCanSay) {
  ScenesConfig config;
  config.tasks = {{"caption", 1}, {"vqa", 5}};
  config.languages = {{"sw", 1}};
  const SceneSource source(config, 4);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(source.at(i).task, "caption");
  EXPECT_NE(error_of([&] { source.with_task(0, "vqa", "sw"); }).find("sw"), std::string::npos);
  EXPECT_NE(error_of([&] { source.with_task(0, "caption", "fr"); }).find("fr"), std::string::npos);
  EXPECT_EQ(source.at(0).chat.turns[0].content, "what is in the picture? answer in Swahili.");
}

TEST(SceneSource, WithTaskKeepsThePicture) {
  ScenesConfig config;
  config.sign_probability = 0.3;
  config.tasks = {{"caption", 1}, {"detailed", 1}};
  const SceneSource source(config, 8);
  for (int i = 0; i < 40; ++i) {
    const Image picture = source.draw(source.scene(i));
    for (const char* task : {"caption", "detailed", "yes_no", "vqa", "counting", "position", "chat"}) {
      const Sample sample = source.with_task(i, task, "en");
      EXPECT_EQ(sample.task, task);
      EXPECT_EQ(sample.chat.images.at(0).rgb, picture.rgb) << task;
    }
    EXPECT_EQ(source.with_task(i, "detailed", "en").chat.turns[0].content, "describe the picture in detail.");
    EXPECT_EQ(source.with_task(i, "caption", "en").chat.turns[0].content, "what is in the picture?");
    EXPECT_FALSE(source.with_task(i, "ocr", "en").truth["sign"].is_null());
    EXPECT_EQ(source.with_task(i, "name", "en").truth["objects"].size(), 1U);
  }
}

TEST(SceneSource, OutlinesStandForThePicture) {
  ScenesConfig config;
  config.outlines = true;
  config.tasks = {{"detailed", 1}};
  config.classes = {"cat", "dog", "car"};
  const SceneSource source(config, 4);
  for (int i = 0; i < 30; ++i) {
    const Sample sample = source.at(i);
    EXPECT_TRUE(sample.chat.images.empty());
    ASSERT_EQ(sample.chat.turns.size(), 2U);
    const std::string& question = sample.chat.turns[0].content;
    const std::string outline = question.substr(0, question.find('\n'));
    const auto parts = 1 + std::count(outline.begin(), outline.end(), ',');
    EXPECT_EQ(static_cast<std::size_t>(parts), sample.truth["objects"].size()) << question;
    // In the order of the answer, place first: "There is a cat at the top left. ..."
    const std::string& answer = sample.chat.turns[1].content;
    const std::string place = outline.substr(0, outline.find(':'));
    EXPECT_EQ(answer.substr(0, answer.find('.') + 1).find(place + "."), answer.find('.') - place.size())
        << outline << " | " << answer;
  }
}

TEST(SceneSource, SomeClassesArePopularAndGroupsKeepCompany) {
  ScenesConfig config;
  config.min_objects = 2;
  config.max_objects = 4;
  config.allow_repeats = false;
  const SceneSource source(config, 21);
  const auto classes = selected_classes(config, "scenes");
  std::vector<int> counts(classes.size());
  int pairs = 0, same_group = 0;
  double expected_same = 0;
  std::vector<int> all;
  for (int i = 0; i < 4000; ++i) {
    const Scene scene = source.scene(i);
    for (const SceneObject& object : scene.objects) {
      ++counts[static_cast<std::size_t>(object.class_index)];
      all.push_back(object.class_index);
    }
    for (std::size_t k = 1; k < scene.objects.size(); ++k) {
      ++pairs;
      same_group += classes[static_cast<std::size_t>(scene.objects[0].class_index)].group ==
                    classes[static_cast<std::size_t>(scene.objects[k].class_index)].group;
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {  // pairs from different pictures
    expected_same += classes[static_cast<std::size_t>(all[i])].group ==
                     classes[static_cast<std::size_t>(all[(i * 31 + 977) % all.size()])].group;
  }
  EXPECT_GT(counts.front(), 2 * counts.back());
  EXPECT_GT(*std::min_element(counts.begin(), counts.end()), 30);
  EXPECT_GT(static_cast<double>(same_group) / pairs, 2 * expected_same / static_cast<double>(all.size()));
}

TEST(SceneSource, ObjectCountsAndSizesFollowTheConfig) {
  ScenesConfig config;
  config.min_objects = 2;
  config.max_objects = 3;
  config.widths = {200};
  config.heights = {100};
  config.min_object_fraction = 0.3;
  config.max_object_fraction = 0.4;
  const SceneSource source(config, 1);
  std::set<std::size_t> numbers;
  for (int i = 0; i < 200; ++i) {
    const Scene scene = source.scene(i);
    numbers.insert(scene.objects.size());
    for (const SceneObject& object : scene.objects) {
      EXPECT_GE(std::max(object.width, object.height), 29);
      EXPECT_LE(std::max(object.width, object.height), 41);
    }
  }
  EXPECT_EQ(numbers, (std::set<std::size_t>{2, 3}));
}

}  // namespace
}  // namespace pocketvlm
