#pragma once

#include <string>
#include <vector>

#include "data/scenes/scene_config.h"

namespace pocketvlm {

/// One kind of object: how it is called and where its picture comes from.
struct ObjectClass {
  std::string name;                   // English, singular, lower case
  std::vector<std::string> synonyms;  // other English words for it, singular
  std::string group;                  // classes of one group tend to appear together
  char32_t glyph = 0;                 // emoji world: code point that is drawn
  char32_t annotation = 0;            // code point whose CLDR short name is the class's name in other languages
  std::vector<std::string> files;     // stamps world: pictures below the stamps folder, one variant each
};

/// Curated classes of a sprite library ("emoji" or "stamps"), the most distinct looking first.
const std::vector<ObjectClass>& curated_classes(const std::string& sprites);

/// The classes that a config asks for: its explicit list, or the first num_classes of the curated ones.
/// Throws Error for unknown names (with a suggestion) and for more classes than there are.
std::vector<ObjectClass> selected_classes(const ScenesConfig& config, const std::string& path);

/// English plural of a class name; the last word changes ("ice cream" -> "ice creams").
std::string plural_of(const std::string& name);

/// "a" or "an", by the first letter.
std::string article_of(const std::string& name);

}  // namespace pocketvlm
