#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// What English words say of a thing: "small", "dark red", "made of stone" as one says them behind "is".
using Attributes = std::vector<std::string>;

/// Takes the words off the front of a name that say how the thing is: "small dark red stone ball" leaves "ball". Names that only look
/// so ("orange", "hot dog") stay whole; one word always stays.
Attributes take_attributes(std::string& name);

/// "red", "large and red", "dark blue, wet and shiny": what such a predicate says, one each; colours that belong together ("black and
/// white") are one. Empty when any other word stands in it.
Attributes read_attributes(std::string_view predicate);

/// The parts of an English sentence that can stand alone: "A man rides a bike, and a dog runs." gives two. A part begins with who or
/// what it is about and has a verb; where one of the sides lacks that, there is no cut. Case and words stay as they are.
std::vector<std::string> clauses_of(std::string_view sentence);

}  // namespace pocketvlm
