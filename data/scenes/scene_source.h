#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/sample.h"
#include "data/scenes/scene_config.h"

namespace pocketvlm {

/// One object of a scene; the box is in pixels of the picture.
struct SceneObject {
  int class_index = 0;
  int x = 0, y = 0, width = 0, height = 0;
  int variant = 0;  // which picture of the class (stamps have several)
};

/// Everything known about a picture before it is drawn.
struct Scene {
  int width = 0, height = 0;
  std::vector<SceneObject> objects;  // back to front; at least 60 % of each stays visible
  std::string sign_text;             // empty without a sign
  SceneObject sign_box;              // where the sign's board is; drawn last, covers no object
  int sign_font_pixels = 0;
  std::uint64_t background_seed = 0;
};

/// The endless stream of scenes: sample i is a function of (seed, i) alone. Thread-safe.
/// Sample::truth = {"objects": [{"name", "box": [x, y, w, h]}, ...], "counts": {name: n}, "sign": text or null,
///                  "classes": [...], "sign_box": box or null, "size": [width, height]} with English class names,
/// whatever the language of the text. "classes" stand in reading order; boxes are in pixels.
/// A "text" sample has no picture; a "name" picture has one object, an "ocr" picture a sign.
class SceneSource : public SampleSource {
 public:
  SceneSource(ScenesConfig config, std::uint64_t seed);
  ~SceneSource() override;

  std::int64_t size() const override { return kEndless; }
  Sample at(std::int64_t index) const override { return sample(index, true); }
  Sample outline(std::int64_t index) const override { return sample(index, false); }
  std::string name() const override { return "scenes"; }

  Scene scene(std::int64_t index) const;
  Image draw(const Scene& scene) const;
  const std::vector<std::string>& class_names() const;  // English, by class_index
  /// Sample with the picture of `index` and a given task, for evaluation (e.g. "detailed", "yes_no"): always the usual
  /// phrasing, captions without noise. Only "ocr" and "name" get another picture, where that of `index` has no sign
  /// or several objects. `language` must be one of the config's (or "en").
  Sample with_task(std::int64_t index, const std::string& task, const std::string& language) const;

 private:
  Sample sample(std::int64_t index, bool drawn) const;

  struct State;
  std::unique_ptr<State> state_;
};

/// Finds the object classes that a text names (plurals, the synonyms of the class list, longest match
/// first). What CHAIR and the rule-based claim splitter use.
class ObjectVocabulary {
 public:
  /// `names`: class names (English); synonyms: name -> other words for it.
  ObjectVocabulary(std::vector<std::string> names, std::map<std::string, std::vector<std::string>> synonyms);
  struct Mention {
    int class_index;
    std::size_t begin, end;  // bytes of the text
  };
  std::vector<Mention> find(const std::string& text) const;
  const std::vector<std::string>& names() const { return names_; }

  /// What the classes are called in another language, by class index; find() goes on looking for English alone.
  void add_language(const std::string& language, const std::vector<std::string>& names);
  /// The class that has exactly this name in a language that was added.
  std::optional<int> named(const std::string& language, const std::string& name) const;

 private:
  std::vector<std::string> names_;
  std::vector<std::pair<std::string, int>> words_;  // lower case, longest first
  std::map<std::string, std::map<std::string, int>> foreign_;  // by language and name
};

/// The curated classes of the emoji world with their synonyms, and their names in the config's languages.
ObjectVocabulary scene_vocabulary(const ScenesConfig& config);

/// These names, with the synonyms that the curated classes know of them: the vocabulary of an annotated folder.
ObjectVocabulary vocabulary_of(std::vector<std::string> names);

/// Writes LLaVA / MiniCPM-V conversation files: DIR/data.json, DIR/images/*.png, DIR/truth.jsonl (one line a sample: {"id",
/// "image", "objects", "counts", "sign"}), with `as_tar` also DIR/shard-00000.tar. Same arguments, same bytes.
void write_scenes(const SceneSource& source, std::int64_t count, const std::string& folder, bool as_tar);

}  // namespace pocketvlm
