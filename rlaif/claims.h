#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace pocketvlm {

/// One fact that an answer states, and the question whose answer is "yes" when the fact holds.
struct Claim {
  std::string text;
  std::string question;
  bool operator==(const Claim&) const = default;
};

/// Divides an answer into atomic claims by rules (rlaifv.md section 1.1 does it with two fine-tuned
/// language models). Nothing is cut, and claim and question stay together, so the two cannot get
/// out of step.
///   "A cat can be seen in the picture."   there is a cat
///   "There is a cat on the left."   there is a cat; there is a cat on the left
///   "a cat and a dog"               there is a cat; there is a dog
///   "There are two cats on the left."   there is a cat; there is a cat on the left; there are two
///   cats on the left "The sign says STOP."           asked as "does the sign say STOP?" any other
///   sentence              the sentence itself, asked as "is it true that ...?"
/// Object claims ask "is there a cat in the picture?" and "is there a cat on the left?", the
/// wording of the judge's training data. A claim that an answer repeats counts once. Text without
/// letters or digits states nothing.
/// Answers in another language of the embedded world (rlaif/language_claims.h) are divided and asked about in its own words:
/// in `language`, a CLDR code, or, where that is empty, in the language that reads most of the sentences; of equals not English, whose rules read more freely.
///
/// With ClaimDetail::kAttributes an English answer states more: what is said of a thing is a claim of its own, about the bare thing, and
/// a sentence that is no list of things is divided into the clauses that can stand alone.
///   "a small red ball on the left"   there is a ball; there is a ball on the left; the ball is small; the ball is red
///   "The balls are black and white."   there is a ball; the balls are black and white
///   "A man rides a bike, and a dog runs."   asked as "is it true that a man rides a bike?", "is it true that a dog runs?"
enum class ClaimDetail { kThings, kAttributes };
std::vector<Claim> split_claims(std::string_view answer,
                                const std::string& language = "",
                                ClaimDetail detail = ClaimDetail::kThings);

/// English singular of a plural; the last word changes. Undoes plural_of
/// (data/scenes/object_classes.h).
std::string singular_of(const std::string& name);

/// English plurals that no rule forms, and their singulars: men, man.
const std::map<std::string, std::string>& irregular_plurals();

}  // namespace pocketvlm
