#include "data/scenes/scene_facts.h"

#include <algorithm>

#include "base/error.h"
#include "data/scenes/scene_composer.h"
#include "data/scenes/signs.h"

namespace pocketvlm {
namespace {

/// A cell of the grid other than those where the class is.
int other_cell(const SceneFacts& facts, int class_index, Random& random) {
  std::vector<int> cells;
  for (int cell = 0; cell < 9; ++cell) {
    if (!facts.has_at(class_index, cell)) cells.push_back(cell);
  }
  return cells.empty() ? -1 : random.pick(cells);
}

std::vector<int> present_classes(const SceneFacts& facts) {
  std::vector<int> classes;
  for (const auto& item : facts.counts) classes.push_back(item.class_index);
  return classes;
}

template <typename Item, typename Test>
std::vector<Item> those(const std::vector<Item>& items, const Test& test) {
  std::vector<Item> result;
  std::copy_if(items.begin(), items.end(), std::back_inserter(result), test);
  return result;
}

}  // namespace

int SceneFacts::count_of(int class_index) const {
  for (const Count& item : counts) {
    if (item.class_index == class_index) return item.count;
  }
  return 0;
}

bool SceneFacts::has_at(int class_index, int cell) const {
  return std::any_of(groups.begin(), groups.end(), [&](const Group& group) {
    return group.class_index == class_index && group.cell == cell;
  });
}

SceneFacts facts_of(const Scene& scene) {
  struct Item {
    int cell, x, class_index;
  };
  std::vector<Item> items;
  for (const SceneObject& object : scene.objects) {
    items.push_back({cell_of(object, scene.width, scene.height), object.x, object.class_index});
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return std::tie(a.cell, a.x) < std::tie(b.cell, b.x);
  });
  SceneFacts facts;
  facts.num_objects = static_cast<int>(items.size());
  for (const Item& item : items) {
    const auto group = std::find_if(facts.groups.begin(), facts.groups.end(), [&](const auto& other) {
      return other.class_index == item.class_index && other.cell == item.cell;
    });
    if (group != facts.groups.end()) ++group->count;
    else facts.groups.push_back({item.class_index, item.cell, 1});
    const auto count = std::find_if(facts.counts.begin(), facts.counts.end(), [&](const auto& other) {
      return other.class_index == item.class_index;
    });
    if (count != facts.counts.end()) ++count->count;
    else facts.counts.push_back({item.class_index, 1});
  }
  facts.sign_text = scene.sign_text;
  if (!scene.sign_text.empty()) facts.sign_cell = cell_of(scene.sign_box, scene.width, scene.height);
  return facts;
}

QueryMaker::QueryMaker(const ScenesConfig& config,
                       const std::vector<ObjectClass>& classes,
                       const ClassFrequencies& frequencies)
    : config_(config), classes_(classes), frequencies_(frequencies) {}

Query QueryMaker::make(const std::string& task,
                       const std::string& language,
                       const SceneFacts& facts,
                       Random& random,
                       bool clean) const {
  Query query;
  if (task == "caption") return caption(facts, random, clean);
  if (task == "yes_no") return yes_no(facts, random, language);
  if (task == "counting") return counting(facts, random);
  if (task == "position") return position(facts, random);
  if (task == "vqa") return open_question(facts, random, language);
  if (task == "name") {
    query.kind = Query::kName;
    query.items = facts.counts;
  } else if (task == "detailed") {
    query.kind = Query::kDetailed;
    const bool sparse = facts.num_objects >= 1 && facts.num_objects <= 2;
    if (!clean && sparse && random.chance(config_.invented_object_rate)) invent(facts, random, query);
  } else if (task == "ocr") {
    query.kind = Query::kReadSign;
    query.text = facts.sign_text;
  } else {
    fail("no scene can serve the task \"{}\"", task);
  }
  return query;
}

int QueryMaker::absent_class(const SceneFacts& facts, Random& random) const {
  const std::vector<int> present = present_classes(facts);
  if (!present.empty() && random.chance(0.5)) {
    return frequencies_.draw_companion(random, random.pick(present), present);
  }
  const auto num_absent = static_cast<std::int64_t>(classes_.size() - present.size());
  if (num_absent == 0) return -1;
  std::int64_t left = random.below(num_absent);
  for (int i = 0;; ++i) {
    if (facts.count_of(i) == 0 && left-- == 0) return i;
  }
}

Query QueryMaker::caption(const SceneFacts& facts, Random& random, bool clean) const {
  Query query;
  query.kind = Query::kCaption;
  std::vector<int> avoid = present_classes(facts);
  std::vector<SceneFacts::Count> kept = facts.counts;
  if (!clean) {
    kept = those(facts.counts, [&](const auto&) { return !random.chance(config_.missing_object_rate); });
    if (kept.empty() && !facts.counts.empty()) kept = {random.pick(facts.counts)};  // nobody captions nothing
  }
  for (SceneFacts::Count named : kept) {
    if (!clean && random.chance(config_.false_object_rate)) {
      named.class_index = frequencies_.draw_companion(random, random.pick(avoid), avoid);
      if (named.class_index < 0) continue;  // every class is in the picture
      avoid.push_back(named.class_index);
    }
    query.items.push_back(named);
  }
  return query;
}

void QueryMaker::invent(const SceneFacts& facts, Random& random, Query& query) const {
  const std::vector<int> present = present_classes(facts);
  query.class_index = frequencies_.draw_companion(random, random.pick(present), present);
  query.cell = static_cast<int>(random.below(9));
}

Query QueryMaker::about_sign(const SceneFacts& facts,
                             Random& random,
                             const std::string& language,
                             bool yes) const {
  Query query;
  query.yes = yes;
  query.kind = random.chance(0.5) ? Query::kSignAt : Query::kSignSays;
  query.cell = facts.sign_cell;
  query.text = facts.sign_text;
  if (query.kind == Query::kSignAt) {
    if (!yes) query.cell = (facts.sign_cell + static_cast<int>(random.between(1, 8))) % 9;
    return query;
  }
  const std::vector<std::string>& words = sign_words(language);
  while (!yes && query.text == facts.sign_text) {
    query.text = words.empty() || random.chance(0.25)
                     ? sign_number(language, static_cast<int>(random.between(1, 99)))
                     : random.pick(words);
  }
  return query;
}

Query QueryMaker::yes_no(const SceneFacts& facts, Random& random, const std::string& language) const {
  Query query;
  query.yes = random.chance(0.5);
  const double choice = random.uniform();
  if (!facts.sign_text.empty() && choice < 0.15) return about_sign(facts, random, language, query.yes);
  const auto repeated = those(facts.counts, [](const auto& item) { return item.count > 1; });
  const auto single = those(facts.groups, [&](const auto& g) { return facts.count_of(g.class_index) == 1; });
  if (choice < 0.40 && !facts.groups.empty()) {
    query.kind = Query::kExistsAt;
    const SceneFacts::Group group = random.pick(facts.groups);
    query.class_index = group.class_index;
    query.cell = group.cell;
    if (!query.yes) {
      // Half of the false ones name a class of the picture in a wrong place, half an absent class.
      const int absent = random.chance(0.5) ? absent_class(facts, random) : -1;
      if (absent >= 0) query.class_index = absent;
      else query.cell = other_cell(facts, group.class_index, random);
    }
    if (query.cell >= 0) return query;
  } else if (choice < 0.50 && !single.empty()) {
    query.kind = Query::kIsAt;
    const SceneFacts::Group group = random.pick(single);
    query.class_index = group.class_index;
    query.cell = query.yes ? group.cell : other_cell(facts, group.class_index, random);
    return query;
  } else if (choice < 0.60 && !repeated.empty()) {
    query.kind = Query::kExactCount;
    const SceneFacts::Count item = random.pick(query.yes ? repeated : facts.counts);
    query.class_index = item.class_index;
    query.count = item.count;
    while (!query.yes && query.count == item.count) query.count = static_cast<int>(random.between(2, 4));
    return query;
  }
  query.kind = Query::kExists;
  query.yes = query.yes && !facts.counts.empty();
  query.class_index = query.yes ? random.pick(facts.counts).class_index : absent_class(facts, random);
  if (query.class_index < 0) {  // every class is in the picture
    query.yes = true;
    query.class_index = random.pick(facts.counts).class_index;
  }
  return query;
}

Query QueryMaker::counting(const SceneFacts& facts, Random& random) const {
  Query query;
  query.kind = Query::kHowMany;
  const auto repeated = those(facts.counts, [](const auto& item) { return item.count > 1; });
  const int absent = facts.counts.empty() || random.chance(0.1) ? absent_class(facts, random) : -1;
  if (absent >= 0) {
    query.class_index = absent;
    return query;
  }
  const SceneFacts::Count item =
      random.pick(!repeated.empty() && random.chance(0.6) ? repeated : facts.counts);
  query.class_index = item.class_index;
  query.count = item.count;
  return query;
}

Query QueryMaker::position(const SceneFacts& facts, Random& random) const {
  const auto single = those(facts.groups, [&](const auto& g) { return facts.count_of(g.class_index) == 1; });
  if (single.empty()) return counting(facts, random);
  Query query;
  query.kind = Query::kWhere;
  const SceneFacts::Group group = random.pick(single);
  query.class_index = group.class_index;
  query.cell = group.cell;
  return query;
}

Query QueryMaker::open_question(const SceneFacts& facts, Random& random, const std::string& language) const {
  Query query;
  const double choice = random.uniform();
  if (!facts.sign_text.empty() && choice < 0.12) {
    query.kind = Query::kReadSign;
    query.text = facts.sign_text;
    return query;
  }
  if (choice < 0.40 && !facts.groups.empty()) {
    query.kind = Query::kWhatAt;
    query.cell = random.pick(facts.groups).cell;
    for (const SceneFacts::Group& group : facts.groups) {
      if (group.cell == query.cell) query.items.push_back({group.class_index, group.count});
    }
    return query;
  }
  if (choice < 0.50) {
    query.kind = Query::kHowManyObjects;
    query.count = facts.num_objects;
    return query;
  }
  if (choice < 0.62) {
    const auto alone = those(facts.counts, [&](const SceneFacts::Count& item) {
      const std::string& group = classes_[static_cast<std::size_t>(item.class_index)].group;
      return std::count_if(facts.counts.begin(), facts.counts.end(), [&](const auto& other) {
               return classes_[static_cast<std::size_t>(other.class_index)].group == group;
             }) == 1 &&
             (group == "animal" || group == "vehicle" || group == "food");
    });
    if (!alone.empty()) {
      query.kind = Query::kWhichOfGroup;
      const SceneFacts::Count item = random.pick(alone);
      query.class_index = item.class_index;
      query.items = {item};
      return query;
    }
  }
  if (choice < 0.75) return counting(facts, random);
  if (choice < 0.90) return position(facts, random);
  return yes_no(facts, random, language);
}

}  // namespace pocketvlm
