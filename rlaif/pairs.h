#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "rlaif/rlaif_config.h"

namespace pocketvlm {

/// An answer with what the judge made of it.
struct ScoredAnswer {
  std::string text;
  std::int64_t sample = 0;
  std::int64_t claims = 0;
  std::int64_t rejected = 0;  // claims the judge did not accept
  std::string cut = {};       // the limit that ended the answer; empty: it ended by itself
  bool unread = false;        // the splitter's output could not be read: what the answer states is not known
  double probability_sum = 0;  // of p_yes / (p_yes + p_no) over the claims

  /// -(rejected claims), -(rejected / claims), or the mean probability of the claims.
  double score(const PairConfig& config) const;
};

/// The answers to one question about one picture.
struct ScoredPrompt {
  std::string id;
  std::int64_t index = 0;  // of the prompt in its round; selects the random stream
  std::string question;
  std::vector<ScoredAnswer> answers;
  std::string picture_key = {};
};

struct PreferencePair {
  std::string prompt_id;
  std::int64_t index = 0;
  std::string question;
  std::string chosen, rejected;
  std::int64_t chosen_sample = 0, rejected_sample = 0;
  double chosen_score = 0, rejected_score = 0;
  std::int64_t chosen_rejected_claims = 0, rejected_rejected_claims = 0;
  std::string picture_key = {};  // of the picture that the answers are about; empty: not known
  bool single = false;  // no pair, but one answer for KTO: `chosen` when it is desirable, else `rejected`; the other is empty

  /// Of a single one.
  bool is_desirable() const { return !chosen.empty(); }
  const std::string& completion() const { return is_desirable() ? chosen : rejected; }

  Json to_json() const;
  static PreferencePair from_json(const Json& row);  // throws Json::exception
};

/// What became of all answers and combinations.
struct PairReport {
  std::int64_t prompts = 0;
  std::int64_t prompts_with_pairs = 0;
  std::int64_t answers = 0;
  std::int64_t combinations = 0;
  std::int64_t pairs = 0;
  std::map<std::string, std::int64_t> dropped_answers;  // reason -> answers
  std::map<std::string, std::int64_t> dropped_pairs;    // reason -> combinations
  double length_threshold = 1.0;                        // r of the length control; 1 without
  double mean_words_chosen = 0, mean_words_rejected = 0;

  Json to_json() const;
};

/// Words are what white space separates.
std::int64_t count_words(const std::string& text);

/// RLAIF-V's one-sided, corpus-level length control (rlaifv.md section 1.3): for r in {0, 0.02,
/// ..., 0.98} drop the pairs with (words_rejected - words_chosen) / words_rejected > r, and take
/// the r that makes |mean words chosen - mean words rejected| / mean words rejected smallest; the
/// smallest such r among equals. Returns r.
double length_threshold(const std::vector<PreferencePair>& pairs);

/// True when the length control with threshold `r` drops the pair.
bool is_too_short(const PreferencePair& pair, double r);

/// From scores to pairs: of all combinations of a prompt's answers whose scores differ enough, at
/// most `max_pairs_per_prompt` drawn by the seed, then length control. Left out and counted:
/// answers without claims, unread by the splitter or cut at a limit, ties, pairs of equal texts, and pairs already
/// drawn in the same words. Under the score "rate", answers differ enough when the difference is
/// worth `min_difference` claims of the longer one; under "probability", by `min_probability_gap`.
/// With choice "random" the same combinations are drawn, and a coin says which answer is chosen.
std::vector<PreferencePair> build_pairs(const std::vector<ScoredPrompt>& prompts,
                                        const PairConfig& config,
                                        std::uint64_t seed,
                                        PairReport& report);

}  // namespace pocketvlm
