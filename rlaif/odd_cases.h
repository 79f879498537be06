#pragma once

#include <string>

#include "base/json.h"

namespace pocketvlm {

/// Everything in a round that went another way than the usual one, counted and explained, from the files of its folder:
/// {"stage", "what", "count", "of", "effect", "examples": [...]} each, the prompt's number and sample in the examples.
/// Cases that did not happen stand there with 0, so that silence means something. Stages that have not run are left out.
///   sample   prompts that could not be asked (missing or damaged pictures, too long) or that an earlier round had,
///            answers cut (by the limit that cut them), empty answers, answers with an image mark, answers equal to another one of their prompt
///   split    answers that state nothing, splitter output that could not be read
///   judge    questions too long for the judge, judge output that is neither yes nor no
///   pairs    answers and combinations that gave no pair, by reason
///   train    pairs that cannot be trained on, by reason
Json odd_cases(const std::string& folder);

}  // namespace pocketvlm
