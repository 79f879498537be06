#include "data/scenes/scene_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "data/scenes/backgrounds.h"
#include "data/scenes/scene_composer.h"
#include "data/scenes/scene_text.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kChoiceStream = 0x63686f;
constexpr std::uint64_t kSceneStream = 0x736365;
constexpr std::uint64_t kTextStream = 0x747874;

std::uint64_t key_of(const std::string& text) {
  std::uint64_t key = 1469598103934665603ULL;  // FNV-1a
  for (const char letter : text) key = (key ^ static_cast<unsigned char>(letter)) * 1099511628211ULL;
  return key;
}

std::string draw_weighted(Random& random, const std::vector<std::pair<std::string, double>>& weights) {
  double total = 0;
  for (const auto& [name, weight] : weights) total += weight;
  double rest = random.uniform() * total;
  for (const auto& [name, weight] : weights) {
    rest -= weight;
    if (rest < 0 && weight > 0) return name;
  }
  for (auto last = weights.rbegin(); last != weights.rend(); ++last) {
    if (last->second > 0) return last->first;
  }
  return "";
}

Json box_of(const SceneObject& object) {
  return Json::array({object.x, object.y, object.width, object.height});
}

int longest_side(const ScenesConfig& config) {
  std::int64_t side = 0;
  for (std::size_t i = 0; i < config.widths.size(); ++i) {
    side = std::max(side, std::min(config.widths[i], config.heights[i]));
  }
  return static_cast<int>(std::ceil(static_cast<double>(side) * config.max_object_fraction)) + 1;
}

const ScenesConfig& validated(const ScenesConfig& config) {
  config.validate("scenes");
  return config;
}

}  // namespace

struct SceneSource::State {
  State(ScenesConfig the_config, std::uint64_t the_seed)
      : config(std::move(the_config)),
        seed(the_seed),
        classes(selected_classes(validated(config), "scenes")),
        frequencies(classes),
        sprites(classes, longest_side(config)),
        backgrounds(config.backgrounds, config.photo_folder),
        composer(config, frequencies, sprites, signs),
        text(config, classes, frequencies, "scenes") {
    for (const ObjectClass& object_class : classes) names.push_back(object_class.name);
  }

  struct Choice {
    std::string task, language;
  };

  /// What sample `index` is about.
  Choice choose(std::int64_t index) const {
    Random random({kChoiceStream, seed, static_cast<std::uint64_t>(index)});
    Choice choice;
    choice.language = draw_weighted(random, {config.languages.begin(), config.languages.end()});
    std::vector<std::pair<std::string, double>> tasks;
    for (const auto& [task, weight] : config.tasks) {
      if (SceneText::can_say(choice.language, task)) tasks.emplace_back(task, weight);
    }
    choice.task = draw_weighted(random, tasks);
    return choice;
  }

  Scene compose(std::int64_t index, const Choice& choice) const {
    Random random({kSceneStream, seed, static_cast<std::uint64_t>(index)});
    SceneWish wish;
    wish.single_object = choice.task == "name";
    wish.many_repeats = choice.task == "counting";
    const bool by_chance = random.chance(config.sign_probability);
    wish.with_sign = !wish.single_object && (by_chance || choice.task == "ocr");
    wish.sign_language = choice.language;
    return composer.compose(random, wish);
  }

  /// The scene in words, line by line as its picture is read: "at the top left: dog, on the right: cat, at the bottom: sign
  /// stop". A place comes before what is there, so that a name's token knows its place, as a token of a picture does.
  std::string outline(const SceneFacts& facts) const {
    std::vector<std::string> parts;
    for (const SceneFacts::Group& group : facts.groups) {
      for (int i = 0; i < group.count; ++i) {
        parts.push_back(fmt::format("{}: {}", position_words(group.cell), names[static_cast<std::size_t>(group.class_index)]));
      }
    }
    if (!facts.sign_text.empty()) parts.push_back(fmt::format("{}: sign {}", position_words(facts.sign_cell), facts.sign_text));
    return fmt::format("{}", fmt::join(parts, ", "));
  }

  Json truth(const Scene& scene, const SceneFacts& facts) const {
    Json objects = Json::array();
    for (const SceneObject& object : scene.objects) {
      objects.push_back({{"name", names[static_cast<std::size_t>(object.class_index)]},
                         {"box", box_of(object)}});
    }
    Json counts = Json::object(), present = Json::array();
    for (const SceneFacts::Count& item : facts.counts) {
      const std::string& name = names[static_cast<std::size_t>(item.class_index)];
      counts[name] = item.count;
      present.push_back(name);
    }
    return {{"objects", objects},
            {"counts", counts},
            {"sign", scene.sign_text.empty() ? Json(nullptr) : Json(scene.sign_text)},
            {"classes", present},
            {"sign_box", scene.sign_text.empty() ? Json(nullptr) : box_of(scene.sign_box)},
            {"size", {scene.width, scene.height}}};
  }

  ScenesConfig config;
  std::uint64_t seed;
  std::vector<ObjectClass> classes;
  std::vector<std::string> names;
  ClassFrequencies frequencies;
  SpriteLibrary sprites;
  SignPainter signs;
  Backgrounds backgrounds;
  SceneComposer composer;
  SceneText text;
};

SceneSource::SceneSource(ScenesConfig config, std::uint64_t seed)
    : state_(std::make_unique<State>(std::move(config), seed)) {}

SceneSource::~SceneSource() = default;

const std::vector<std::string>& SceneSource::class_names() const { return state_->names; }

Scene SceneSource::scene(std::int64_t index) const { return state_->compose(index, state_->choose(index)); }

Image SceneSource::draw(const Scene& scene) const {
  Image image = state_->backgrounds.draw(scene.width, scene.height, scene.background_seed);
  for (const SceneObject& object : scene.objects) {
    blend_sprite(*state_->sprites.get(object.class_index, object.variant, object.width, object.height),
                 object.x,
                 object.y,
                 image);
  }
  if (!scene.sign_text.empty()) {
    state_->signs.draw(scene.sign_text,
                       scene.sign_font_pixels,
                       scene.sign_box.x,
                       scene.sign_box.y,
                       scene.background_seed,
                       image);
  }
  return image;
}

Sample SceneSource::sample(std::int64_t index, bool drawn) const {
  const State::Choice choice = state_->choose(index);
  const Scene scene = state_->compose(index, choice);
  const SceneFacts facts = facts_of(scene);
  Random random({kTextStream, state_->seed, static_cast<std::uint64_t>(index)});
  Sample sample;
  sample.id = fmt::format("scene-{}", index);
  sample.task = choice.task;
  sample.language = choice.language;
  sample.chat.turns = state_->text.turns(choice.task, choice.language, facts, random, false);
  if (choice.task != "text") {
    if (state_->config.outlines) {
      sample.chat.turns.front().content = state_->outline(facts) + "\n" + sample.chat.turns.front().content;
    } else {
      sample.chat.images.push_back(drawn ? draw(scene) : Image::outline(scene.width, scene.height));
    }
  }
  sample.truth = state_->truth(scene, facts);
  return sample;
}

Sample SceneSource::with_task(std::int64_t index, const std::string& task, const std::string& language) const {
  PV_CHECK(state_->text.knows(language),
           "scenes.languages: \"{}\" is asked for, but the config does not list it; add it",
           language);
  PV_CHECK(SceneText::can_say(language, task),
           "scenes.languages: \"{}\" only has names, not the task \"{}\"; use name, caption or text",
           language,
           task);
  const State::Choice natural = state_->choose(index);
  Scene scene = state_->compose(index, natural);
  const bool another_picture = (task == "ocr" && scene.sign_text.empty()) ||
                               (task == "name" && scene.objects.size() != 1);
  if (another_picture) scene = state_->compose(index, {task, language});
  const SceneFacts facts = facts_of(scene);
  Random random({kTextStream, state_->seed, static_cast<std::uint64_t>(index), key_of(task), key_of(language)});
  Sample sample;
  sample.id = fmt::format("scene-{}-{}-{}", index, task, language);
  sample.task = task;
  sample.language = language;
  sample.chat.turns = state_->text.turns(task, language, facts, random, true);
  if (task != "text") sample.chat.images.push_back(draw(scene));
  sample.truth = state_->truth(scene, facts);
  return sample;
}

}  // namespace pocketvlm
