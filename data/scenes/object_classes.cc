#include "data/scenes/object_classes.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace pocketvlm {
namespace {

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t bar = text.find('|');
    words.emplace_back(text.substr(0, bar));
    text = bar == std::string_view::npos ? std::string_view{} : text.substr(bar + 1);
  }
  return words;
}

struct EmojiRow {
  const char* name;
  const char* group;
  char32_t glyph;
  char32_t annotation;
  const char* synonyms;
};

// Where Unicode's face glyph is the more distinct picture, the annotation of the whole animal gives the plain name
// ("cat", not "cat face").
constexpr EmojiRow kEmoji[] = {
    {"cat", "animal", U'🐱', U'🐈', "kitten|kitty"},
    {"car", "vehicle", U'🚗', U'🚗', "automobile"},
    {"tree", "nature", U'🌳', U'🌳', ""},
    {"apple", "food", U'🍎', U'🍎', ""},
    {"dog", "animal", U'🐶', U'🐕', "puppy|doggy"},
    {"clock", "home", U'⏰', U'⏰', "alarm clock"},
    {"banana", "food", U'🍌', U'🍌', ""},
    {"bus", "vehicle", U'🚌', U'🚌', ""},
    {"frog", "animal", U'🐸', U'🐸', "toad"},
    {"sun", "nature", U'🌞', U'☀', ""},
    {"pizza", "food", U'🍕', U'🍕', "slice of pizza"},
    {"umbrella", "home", U'☂', U'☂', "parasol"},
    {"pig", "animal", U'🐷', U'🐖', "piglet"},
    {"boat", "vehicle", U'⛵', U'⛵', "sailboat|ship"},
    {"book", "home", U'📗', U'📖', ""},
    {"watermelon", "food", U'🍉', U'🍉', "melon"},
    {"penguin", "animal", U'🐧', U'🐧', ""},
    {"heart", "nature", U'💜', U'💜', ""},
    {"rocket", "vehicle", U'🚀', U'🚀', "spaceship"},
    {"chair", "home", U'🪑', U'🪑', "seat"},
    {"carrot", "food", U'🥕', U'🥕', ""},
    {"butterfly", "animal", U'🦋', U'🦋', ""},
    {"star", "nature", U'⭐', U'⭐', ""},
    {"train", "vehicle", U'🚂', U'🚂', "locomotive|steam train"},
    {"hamburger", "food", U'🍔', U'🍔', "burger|cheeseburger"},
    {"balloon", "home", U'🎈', U'🎈', ""},
    {"panda", "animal", U'🐼', U'🐼', ""},
    {"cactus", "nature", U'🌵', U'🌵', ""},
    {"cake", "food", U'🎂', U'🎂', "birthday cake"},
    {"airplane", "vehicle", U'✈', U'✈', "plane|aeroplane|aircraft|jet"},
    {"guitar", "music", U'🎸', U'🎸', ""},
    {"fish", "animal", U'🐠', U'🐟', "tropical fish"},
    {"key", "home", U'🔑', U'🔑', ""},
    {"snowman", "nature", U'⛄', U'⛄', ""},
    {"pumpkin", "food", U'🎃', U'🎃', "jack-o-lantern"},
    {"elephant", "animal", U'🐘', U'🐘', ""},
    {"ball", "sport", U'⚽', U'⚽', "soccer ball|football"},
    {"drum", "music", U'🥁', U'🥁', ""},
    {"tractor", "vehicle", U'🚜', U'🚜', ""},
    {"mushroom", "nature", U'🍄', U'🍄', "toadstool"},
    {"hat", "clothing", U'🎩', U'🎩', "top hat"},
    {"lion", "animal", U'🦁', U'🦁', ""},
    {"donut", "food", U'🍩', U'🍩', "doughnut"},
    {"turtle", "animal", U'🐢', U'🐢', "tortoise"},
    {"shirt", "clothing", U'👕', U'👕', "t-shirt|tee shirt"},
    {"gift", "home", U'🎁', U'🎁', "present|gift box"},
    {"octopus", "animal", U'🐙', U'🐙', ""},
    {"house", "nature", U'🏠', U'🏠', ""},
    {"cherry", "food", U'🍒', U'🍒', ""},
    {"robot", "home", U'🤖', U'🤖', ""},
    {"crab", "animal", U'🦀', U'🦀', ""},
    {"rainbow", "nature", U'🌈', U'🌈', ""},
    {"truck", "vehicle", U'🚚', U'🚚', "lorry|delivery truck"},
    {"pineapple", "food", U'🍍', U'🍍', ""},
    {"trumpet", "music", U'🎺', U'🎺', "horn"},
    {"crown", "clothing", U'👑', U'👑', ""},
    {"chicken", "animal", U'🐔', U'🐔', "hen|rooster"},
    {"sunflower", "nature", U'🌻', U'🌻', ""},
    {"basketball", "sport", U'🏀', U'🏀', ""},
    {"ice cream", "food", U'🍦', U'🍦', ""},
    {"camera", "home", U'📷', U'📷', ""},
    {"monkey", "animal", U'🐵', U'🐒', "ape"},
    {"helicopter", "vehicle", U'🚁', U'🚁', ""},
    {"cup", "home", U'☕', U'☕', "mug|coffee cup"},
    {"shoe", "clothing", U'👟', U'👟', "sneaker"},
    {"whale", "animal", U'🐳', U'🐋', ""},
    {"strawberry", "food", U'🍓', U'🍓', ""},
    {"moon", "nature", U'🌙', U'🌙', "crescent"},
    {"trophy", "sport", U'🏆', U'🏆', ""},
    {"bicycle", "vehicle", U'🚲', U'🚲', "bike|cycle"},
    {"bell", "music", U'🔔', U'🔔', ""},
    {"ladybug", "animal", U'🐞', U'🐞', "ladybird|beetle"},
    {"egg", "food", U'🥚', U'🥚', ""},
    {"rose", "nature", U'🌹', U'🌹', ""},
    {"phone", "home", U'📱', U'📱', "smartphone|telephone"},
    {"dress", "clothing", U'👗', U'👗', ""},
    {"bee", "animal", U'🐝', U'🐝', "honeybee"},
    {"lemon", "food", U'🍋', U'🍋', ""},
    {"cloud", "nature", U'☁', U'☁', ""},
    {"violin", "music", U'🎻', U'🎻', "fiddle"},
    {"fox", "animal", U'🦊', U'🦊', ""},
    {"television", "home", U'📺', U'📺', "tv|tv set"},
    {"backpack", "clothing", U'🎒', U'🎒', "rucksack|school bag"},
    {"hot dog", "food", U'🌭', U'🌭', "hotdog"},
    {"owl", "animal", U'🦉', U'🦉', ""},
    {"fire", "nature", U'🔥', U'🔥', "flame"},
    {"hammer", "home", U'🔨', U'🔨', ""},
    {"fire truck", "vehicle", U'🚒', U'🚒', "fire engine"},
    {"snail", "animal", U'🐌', U'🐌', ""},
    {"dice", "sport", U'🎲', U'🎲', ""},
    {"tulip", "nature", U'🌷', U'🌷', ""},
    {"cow", "animal", U'🐮', U'🐄', ""},
    {"globe", "home", U'🌍', U'🌍', "earth"},
    {"boot", "clothing", U'👢', U'👢', ""},
    {"pear", "food", U'🍐', U'🍐', ""},
    {"kite", "sport", U'🪁', U'🪁', ""},
    {"rabbit", "animal", U'🐰', U'🐇', "bunny|hare"},
    {"piano", "music", U'🎹', U'🎹', "keyboard"},
    {"bear", "animal", U'🐻', U'🐻', ""},
    {"lollipop", "food", U'🍭', U'🍭', "candy"},
    {"ghost", "nature", U'👻', U'👻', ""},
    {"snake", "animal", U'🐍', U'🐍', ""},
    {"cookie", "food", U'🍪', U'🍪', "biscuit"},
    {"computer", "home", U'💻', U'💻', "laptop|notebook"},
    {"tomato", "food", U'🍅', U'🍅', ""},
    {"mouse", "animal", U'🐭', U'🐁', ""},
    {"bed", "home", U'🛏', U'🛏', ""},
};

struct StampRow {
  const char* name;
  const char* group;
  char32_t annotation;
  const char* synonyms;
  const char* files;
};

constexpr StampRow kStamps[] = {
    {"tiger", "animal", U'🐅', "", "animals/mammals/cats/tiger.png"},
    {"apple", "food", U'🍎', "", "food/fruit/apple_red.png|food/fruit/apple_fuji.png"},
    {"car", "vehicle", U'🚗', "automobile", "vehicles/auto/sedan.png|vehicles/auto/beetle.png"},
    {"tree", "nature", U'🌳', "", "plants/trees/tree336.png|plants/trees/holm_oak.png"},
    {"clock", "home", U'⏰', "", "symbols/clockface.png"},
    {"elephant", "animal", U'🐘', "", "animals/mammals/elephant.png"},
    {"banana", "food", U'🍌', "", "food/fruit/banana.png"},
    {"bus", "vehicle", U'🚌', "", "vehicles/masstransit/green_korean_bus.png"},
    {"hammer", "home", U'🔨', "", "household/tools/hammer.png"},
    {"penguin", "animal", U'🐧', "", "animals/birds/penguin.png|animals/birds/magellanic_penguin.png"},
    {"rose", "nature", U'🌹', "", "plants/flowers/rose.png"},
    {"carrot", "food", U'🥕', "", "food/vegetables/carrot.png"},
    {"zebra", "animal", U'🦓', "", "animals/mammals/equines/zebra.png"},
    {"guitar", "music", U'🎸', "", "hobbies/music/string/guitar_classical.png|hobbies/music/string/guitar2.png"},
    {"pineapple", "food", U'🍍', "", "food/fruit/pineapple.png"},
    {"fire truck", "vehicle", U'🚒', "fire engine", "vehicles/emergency/firetruck.png"},
    {"frog", "animal", U'🐸', "toad", "animals/amphibians/frog.png|animals/amphibians/frog-1.png"},
    {"key", "home", U'🔑', "", "household/key.png"},
    {"flamingo", "animal", U'🦩', "", "animals/birds/pink_flamingo.png"},
    {"basketball", "sport", U'🏀', "", "sports/basketball.png"},
    {"airplane", "vehicle", U'✈', "plane|aeroplane|jet", "vehicles/flight/planes/747.png"},
    {"teapot", "home", U'🫖', "", "household/dishes/teapot.png"},
    {"giraffe", "animal", U'🦒', "", "animals/mammals/giraffe.png"},
    {"mushroom", "nature", U'🍄', "", "plants/mushrooms/cep.png|plants/mushrooms/cep-1.png"},
    {"tomato", "food", U'🍅', "", "food/vegetables/tomato.png"},
    {"trumpet", "music", U'🎺', "horn", "hobbies/music/brass/trumpet.png"},
    {"cow", "animal", U'🐄', "", "animals/mammals/bovines/cow.png|animals/mammals/bovines/cow_white.png"},
    {"boat", "vehicle", U'⛵', "ship|sailboat", "vehicles/ship/chineseJunk.png"},
    {"shirt", "clothing", U'👕', "t-shirt", "clothes/t_tshirt.png"},
    {"strawberry", "food", U'🍓', "", "food/fruit/strawberry.png|food/fruit/Strawberry2.png"},
    {"pig", "animal", U'🐖', "", "animals/mammals/pig.png"},
    {"moon", "nature", U'🌕', "", "space/moon/moon_full.png"},
    {"camera", "home", U'📷', "", "hobbies/camera_35mm.png"},
    {"broccoli", "food", U'🥦', "", "food/vegetables/broccoli.png"},
    {"lion", "animal", U'🦁', "", "animals/mammals/cats/lion.png|animals/mammals/cats/lion-2.png"},
    {"soccer ball", "sport", U'⚽', "football", "sports/soccer.png"},
    {"tractor", "vehicle", U'🚜', "", "vehicles/farming/cartoon/tux_tractor.png"},
    {"hat", "clothing", U'🎩', "top hat", "clothes/hats/tophat.png"},
    {"horse", "animal", U'🐎', "", "animals/mammals/equines/horse.png"},
    {"lemon", "food", U'🍋', "", "food/fruit/lemon.png"},
    {"violin", "music", U'🎻', "fiddle", "hobbies/music/string/violin.png"},
    {"owl", "animal", U'🦉', "", "animals/birds/owl.png"},
    {"candle", "home", U'🕯', "", "seasonal/candle.png"},
    {"pear", "food", U'🍐', "", "food/fruit/pear.png"},
    {"rooster", "animal", U'🐓', "", "animals/birds/rooster.png"},
    {"trophy", "sport", U'🏆', "", "sports/trophy_cup.png"},
    {"eggplant", "food", U'🍆', "aubergine", "food/vegetables/eggplant.png"},
    {"whale", "animal", U'🐋', "", "animals/mammals/aquatic/whale.png"},
    {"scarf", "clothing", U'🧣', "", "clothes/t_scarf.png"},
    {"pizza", "food", U'🍕', "", "food/pizza.png"},
    {"bear", "animal", U'🐻', "", "animals/mammals/bears/bear.png|animals/mammals/bears/european-bear.png"},
    {"truck", "vehicle", U'🚚', "lorry", "vehicles/construction/dumper.png"},
    {"orange", "food", U'🍊', "", "food/fruit/orange.png"},
    {"camel", "animal", U'🐪', "", "animals/mammals/camel/camel.png|animals/mammals/camel/dromedary.png"},
    {"mug", "home", U'☕', "cup", "household/dishes/mug.png"},
    {"corn", "food", U'🌽', "maize", "food/vegetables/corn.png"},
    {"dolphin", "animal", U'🐬', "", "animals/mammals/aquatic/dolphin.png"},
    {"light bulb", "home", U'💡', "bulb", "household/Lightbulb.png"},
    {"kiwi", "food", U'🥝', "", "food/fruit/kiwi.png"},
    {"sheep", "animal", U'🐑', "", "animals/mammals/bovines/sheep.png"},
    {"onion", "food", U'🧅', "", "food/vegetables/onion.png"},
    {"tennis ball", "sport", U'🎾', "", "sports/tennis_ball.png"},
    {"dog", "animal", U'🐕', "puppy", "animals/mammals/dogs/dog.png"},
    {"avocado", "food", U'🥑', "", "food/fruit/avocado.png"},
    {"duck", "animal", U'🦆', "", "animals/birds/duck.png|animals/birds/drake.png"},
    {"sock", "clothing", U'🧦', "", "clothes/t_sock.png"},
    {"rabbit", "animal", U'🐇', "bunny|hare", "animals/mammals/rodents/rabbit.png|animals/mammals/rabbit_little.png"},
    {"saw", "home", U'🪚', "", "household/tools/saw.png"},
    {"kangaroo", "animal", U'🦘', "", "animals/marsupials/kangaroo.png"},
    {"potato", "food", U'🥔', "", "food/vegetables/potato.png"},
    {"koala", "animal", U'🐨', "", "animals/marsupials/koala.png"},
    {"fox", "animal", U'🦊', "", "animals/mammals/dogs/fox.png"},
    {"peacock", "animal", U'🦚', "", "animals/birds/peacock.png"},
    {"squirrel", "animal", U'🐿', "", "animals/mammals/rodents/squirrel.png"},
    {"bee", "animal", U'🐝', "", "animals/insects/bee.png"},
    {"lobster", "animal", U'🦞', "", "animals/fish/lobster.png"},
    {"turkey", "animal", U'🦃', "", "animals/birds/turkey.png"},
    {"mouse", "animal", U'🐁', "", "animals/mammals/rodents/mouse.png"},
};

std::vector<ObjectClass> emoji_classes() {
  std::vector<ObjectClass> classes;
  for (const EmojiRow& row : kEmoji) {
    classes.push_back({row.name, split_words(row.synonyms), row.group, row.glyph, row.annotation, {}});
  }
  return classes;
}

std::vector<ObjectClass> stamp_classes() {
  std::vector<ObjectClass> classes;
  for (const StampRow& row : kStamps) {
    classes.push_back(
        {row.name, split_words(row.synonyms), row.group, 0, row.annotation, split_words(row.files)});
  }
  return classes;
}

bool ends_with_any(const std::string& word, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) {
    return word.size() >= ending.size() &&
           std::string_view(word).substr(word.size() - ending.size()) == ending;
  });
}

}  // namespace

const std::vector<ObjectClass>& curated_classes(const std::string& sprites) {
  static const std::vector<ObjectClass> emoji = emoji_classes();
  static const std::vector<ObjectClass> stamps = stamp_classes();
  return sprites == "stamps" ? stamps : emoji;
}

std::vector<ObjectClass> selected_classes(const ScenesConfig& config, const std::string& path) {
  const std::vector<ObjectClass>& all = curated_classes(config.sprites);
  if (config.classes.empty()) {
    PV_CHECK(config.num_classes <= static_cast<std::int64_t>(all.size()),
             "{}.num_classes: {} classes asked for, the {} list has {}",
             path,
             config.num_classes,
             config.sprites,
             all.size());
    return {all.begin(), all.begin() + config.num_classes};
  }
  std::vector<std::string> known;
  for (const ObjectClass& object_class : all) known.push_back(object_class.name);
  std::vector<ObjectClass> selected;
  for (const std::string& name : config.classes) {
    const auto place = std::find(known.begin(), known.end(), name);
    if (place == known.end()) {
      const auto close = closest_name(name, known);
      fail("{}.classes: unknown class \"{}\" of the {} list{}",
           path,
           name,
           config.sprites,
           close ? fmt::format(", did you mean \"{}\"?", *close) : std::string(""));
    }
    for (const ObjectClass& earlier : selected) {
      PV_CHECK(earlier.name != name, "{}.classes: \"{}\" is listed twice; remove one", path, name);
    }
    selected.push_back(all[static_cast<std::size_t>(place - known.begin())]);
  }
  return selected;
}

std::string plural_of(const std::string& name) {
  const std::size_t space = name.rfind(' ');
  const std::string head = space == std::string::npos ? "" : name.substr(0, space + 1);
  const std::string word = space == std::string::npos ? name : name.substr(space + 1);
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kIrregular = {{
      {"mouse", "mice"},
      {"fish", "fish"},
      {"sheep", "sheep"},
      {"dice", "dice"},
      {"snowman", "snowmen"},
      {"leaf", "leaves"},
      {"scarf", "scarves"},
      {"aircraft", "aircraft"},
      {"piano", "pianos"},
      {"slice of pizza", "slices of pizza"},
  }};
  for (const auto& [singular, plural] : kIrregular) {
    if (name == singular) return std::string(plural);
    if (word == singular) return head + std::string(plural);
  }
  if (ends_with_any(word, {"s", "x", "z", "ch", "sh"})) return head + word + "es";
  if (word == "tomato" || word == "potato") return head + word + "es";
  if (word.size() > 1 && word.back() == 'y' && !ends_with_any(word, {"ay", "ey", "oy", "uy"})) {
    return head + word.substr(0, word.size() - 1) + "ies";
  }
  return head + word + "s";
}

std::string article_of(const std::string& name) {
  const bool vowel_sound = std::string_view("aeio").find(name.empty() ? 'x' : name[0]) !=
                               std::string_view::npos ||
                           name.starts_with("umbrella");
  return vowel_sound ? "an" : "a";
}

}  // namespace pocketvlm
