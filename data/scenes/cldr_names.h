#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/scenes/object_classes.h"

namespace pocketvlm {

/// Short names (type "tts") of one CLDR annotations file, by code points as UTF-8.
/// Reads the regular form of these files: comments, entities and attributes in any order are understood.
/// Throws Error naming file and line for a tag that never closes.
std::map<std::string, std::string> read_cldr_names(const std::string& path);

/// The class names in a language, by class index; English gives the curated names. Regional languages ("de_AT")
/// inherit from their parent. Throws Error when CLDR does not know the language, or lacks names of some classes.
std::vector<std::string> class_names_in(const std::string& language,
                                        const std::vector<ObjectClass>& classes,
                                        const std::string& path);

/// What English calls a language ("Swahili"); the code itself when CLDR does not say.
std::string language_name(const std::string& language);

}  // namespace pocketvlm
