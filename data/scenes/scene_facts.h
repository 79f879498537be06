#pragma once

#include <string>
#include <vector>

#include "base/random.h"
#include "data/scenes/class_frequencies.h"
#include "data/scenes/scene_source.h"

namespace pocketvlm {

/// What can be said about a scene, free of language. Everything is in reading order: cells of the 3 x 3 grid row by
/// row, so that one picture has one right text.
struct SceneFacts {
  struct Group {
    int class_index, cell, count;
  };
  struct Count {
    int class_index, count;
  };
  std::vector<Group> groups;  // objects of one class in one cell
  std::vector<Count> counts;  // classes by first appearance
  int num_objects = 0;
  std::string sign_text;      // empty without a sign
  int sign_cell = -1;

  int count_of(int class_index) const;
  bool has_at(int class_index, int cell) const;
};

SceneFacts facts_of(const Scene& scene);

/// A question with its true answer, before any language.
struct Query {
  enum Kind {
    kName,            // items[0]: the one object
    kCaption,         // items: what is named, with counts
    kDetailed,        // the whole scene
    kExists,          // class_index; yes
    kExistsAt,        // class_index, cell; yes
    kIsAt,            // class_index (there is exactly one), cell; yes
    kExactCount,      // class_index, count (two or more); yes
    kHowMany,         // class_index, count
    kHowManyObjects,  // count
    kWhere,           // class_index, cell
    kWhatAt,          // cell, items
    kWhichOfGroup,    // class_index: the only class of its group in the picture
    kReadSign,        // text
    kSignAt,          // cell; yes
    kSignSays,        // text; yes
  };
  Kind kind = kCaption;
  int class_index = -1;
  int cell = -1;
  int count = 0;
  bool yes = false;
  std::string text;
  std::vector<SceneFacts::Count> items;
};

/// Draws queries about scenes: half of the yes/no ones are true.
class QueryMaker {
 public:
  QueryMaker(const ScenesConfig& config,
             const std::vector<ObjectClass>& classes,
             const ClassFrequencies& frequencies);

  /// task: name, caption, detailed, vqa, counting, position, ocr or yes_no; language: of words on signs.
  /// Captions and descriptions carry the config's noise unless `clean`. A scene that cannot serve (position, but every class appears
  /// twice) gets the nearest question it can.
  Query make(const std::string& task,
             const std::string& language,
             const SceneFacts& facts,
             Random& random,
             bool clean) const;

 private:
  Query caption(const SceneFacts& facts, Random& random, bool clean) const;
  Query yes_no(const SceneFacts& facts, Random& random, const std::string& language) const;
  /// Gives a description an object that is not there; none where every class is.
  void invent(const SceneFacts& facts, Random& random, Query& query) const;
  Query about_sign(const SceneFacts& facts, Random& random, const std::string& language, bool yes) const;
  Query counting(const SceneFacts& facts, Random& random) const;
  Query position(const SceneFacts& facts, Random& random) const;
  Query open_question(const SceneFacts& facts, Random& random, const std::string& language) const;
  int absent_class(const SceneFacts& facts, Random& random) const;

  const ScenesConfig& config_;
  const std::vector<ObjectClass>& classes_;
  const ClassFrequencies& frequencies_;
};

}  // namespace pocketvlm
