#include "data/scenes/object_classes.h"
#include "data/scenes/signs.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

std::string found(const ObjectVocabulary& vocabulary, const std::string& text) {
  std::string names;
  for (const auto& mention : vocabulary.find(text)) {
    names += (names.empty() ? "" : ",") + vocabulary.names()[static_cast<std::size_t>(mention.class_index)];
  }
  return names;
}

TEST(ObjectVocabulary, FindsNamesPluralsAndSynonymsAsWholeWordsInAnyCase) {
  ScenesConfig config;
  config.num_classes = 107;
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  EXPECT_EQ(found(vocabulary, "A Cat, two DOGS and cherries."), "cat,dog,cherry");
  EXPECT_EQ(found(vocabulary, "kittens on a sailboat"), "cat,boat");
  EXPECT_EQ(found(vocabulary, "concatenate category dogma"), "");
  EXPECT_EQ(found(vocabulary, "the cat's bus"), "cat,bus");
  EXPECT_EQ(found(vocabulary, "mice, fish, snowmen, tomatoes, foxes"), "mouse,fish,snowman,tomato,fox");
  EXPECT_EQ(found(vocabulary, ""), "");
}

TEST(ObjectVocabulary, TheLongestNameWins) {
  ScenesConfig config;
  config.num_classes = 107;
  const ObjectVocabulary vocabulary = scene_vocabulary(config);
  EXPECT_EQ(found(vocabulary, "a hot dog and a dog"), "hot dog,dog");
  EXPECT_EQ(found(vocabulary, "a fire truck, a truck, a fire"), "fire truck,truck,fire");
  EXPECT_EQ(found(vocabulary, "ice-cream and two ice  creams"), "ice cream,ice cream");
  EXPECT_EQ(found(vocabulary, "a jack-o-lantern, a T-shirt"), "pumpkin,shirt");
}

TEST(ObjectVocabulary, MentionsCarryTheirPlaceInTheText) {
  const ObjectVocabulary vocabulary({"cat", "hot dog"}, {{"cat", {"kitty"}}});
  const std::string text = "no Kitty, one hot  dog";
  const auto mentions = vocabulary.find(text);
  ASSERT_EQ(mentions.size(), 2U);
  EXPECT_EQ(text.substr(mentions[0].begin, mentions[0].end - mentions[0].begin), "Kitty");
  EXPECT_EQ(text.substr(mentions[1].begin, mentions[1].end - mentions[1].begin), "hot  dog");
  EXPECT_NE(error_of([] { ObjectVocabulary({"cat"}, {{"dog", {"puppy"}}}); }).find("dog"), std::string::npos);
}

TEST(ObjectVocabulary, NoWordOfSignsOrPhrasesNamesAClass) {
  for (const char* sprites : {"emoji", "stamps"}) {
    ScenesConfig config;
    config.sprites = sprites;
    config.num_classes = static_cast<std::int64_t>(curated_classes(sprites).size());
    const ObjectVocabulary vocabulary = scene_vocabulary(config);
    for (const std::string& word : sign_words("en")) EXPECT_EQ(found(vocabulary, word), "") << word;
    EXPECT_EQ(found(vocabulary, "there is nothing in the picture, at the top left, in the center, a photo with a sign"), "");
    for (std::size_t i = 0; i < vocabulary.names().size(); ++i) {
      const std::string& name = vocabulary.names()[i];
      EXPECT_EQ(found(vocabulary, "a " + name + " there"), name);
      EXPECT_EQ(found(vocabulary, "two " + plural_of(name) + " there"), name);
    }
  }
}

TEST(ObjectVocabulary, EveryClassHasAPictureAndAUniqueName) {
  for (const char* sprites : {"emoji", "stamps"}) {
    std::map<std::string, int> seen;
    for (const ObjectClass& object_class : curated_classes(sprites)) {
      EXPECT_EQ(++seen[object_class.name], 1) << object_class.name;
      EXPECT_NE(object_class.annotation, 0U);
      EXPECT_TRUE(object_class.glyph != 0 || !object_class.files.empty()) << object_class.name;
    }
    EXPECT_GE(seen.size(), 75U);
  }
}

}  // namespace
}  // namespace pocketvlm
