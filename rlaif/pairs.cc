#include "rlaif/pairs.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>
#include <utility>

#include "base/random.h"

namespace pocketvlm {
namespace {

constexpr std::uint64_t kPairStream = 0x70616972;
constexpr int kThresholds = 50;  // of the length control: 0, 0.02, ..., 0.98

// All in whole numbers: no pair is won or lost by rounding.
bool differs_enough(const ScoredAnswer& a, const ScoredAnswer& b, const PairConfig& config) {
  if (config.score == "probability")
    return std::abs(a.score(config) - b.score(config)) >= config.min_probability_gap;
  if (config.score == "count") return std::abs(a.rejected - b.rejected) >= config.min_difference;
  return std::abs(a.rejected * b.claims - b.rejected * a.claims) >=
         config.min_difference * std::min(a.claims, b.claims);
}

bool is_too_short(std::int64_t words_chosen, std::int64_t words_rejected, int step) {
  return (words_rejected - words_chosen) * kThresholds > step * words_rejected;
}

std::vector<PreferencePair> pairs_of(const ScoredPrompt& prompt,
                                     const PairConfig& config,
                                     std::uint64_t seed,
                                     PairReport& report) {
  std::vector<const ScoredAnswer*> usable;
  for (const ScoredAnswer& answer : prompt.answers) {
    if (!answer.cut.empty())
      ++report.dropped_answers["cut at " + answer.cut];
    else if (answer.unread)
      ++report.dropped_answers["no claims from the splitter"];
    else if (answer.claims == 0)
      ++report.dropped_answers["no claims"];
    else
      usable.push_back(&answer);
  }
  std::vector<std::pair<const ScoredAnswer*, const ScoredAnswer*>>
      candidates;  // (chosen, rejected)
  for (std::size_t i = 0; i < usable.size(); ++i) {
    for (std::size_t j = i + 1; j < usable.size(); ++j) {
      ++report.combinations;
      const ScoredAnswer& a = *usable[i];
      const ScoredAnswer& b = *usable[j];
      if (a.text == b.text)
        ++report.dropped_pairs["equal texts"];
      else if (!differs_enough(a, b, config))
        ++report.dropped_pairs["scores too close"];
      else if (a.score(config) > b.score(config))
        candidates.emplace_back(&a, &b);
      else
        candidates.emplace_back(&b, &a);
    }
  }
  Random random({seed, kPairStream, static_cast<std::uint64_t>(prompt.index)});
  random.shuffle(candidates);
  if (config.choice == "random") {
    for (auto& [chosen, rejected] : candidates) {
      if (random.chance(0.5)) std::swap(chosen, rejected);
    }
  }
  std::vector<PreferencePair> pairs;
  for (const auto& [chosen, rejected] : candidates) {
    const bool repeated = std::any_of(
        pairs.begin(), pairs.end(), [&, c = chosen, r = rejected](const PreferencePair& pair) {
          return pair.chosen == c->text && pair.rejected == r->text;
        });
    if (repeated) {
      ++report.dropped_pairs["same words as a drawn pair"];
    } else if (static_cast<std::int64_t>(pairs.size()) >= config.max_pairs_per_prompt) {
      ++report.dropped_pairs["more than max_pairs_per_prompt"];
    } else {
      pairs.push_back({prompt.id,
                       prompt.index,
                       prompt.question,
                       chosen->text,
                       rejected->text,
                       chosen->sample,
                       rejected->sample,
                       chosen->score(config),
                       rejected->score(config),
                       chosen->rejected,
                       rejected->rejected,
                       prompt.picture_key});
    }
  }
  return pairs;
}

}  // namespace

double ScoredAnswer::score(const PairConfig& config) const {
  if (config.score == "probability")
    return claims == 0 ? 0.0 : probability_sum / static_cast<double>(claims);
  // 0 - x and not -x: no negative zero in the files.
  if (config.score == "count" || claims == 0) return 0.0 - static_cast<double>(rejected);
  return 0.0 - static_cast<double>(rejected) / static_cast<double>(claims);
}

Json PreferencePair::to_json() const {
  return {{"prompt_id", prompt_id},
          {"index", index},
          {"picture_key", picture_key},
          {"question", question},
          {"chosen", chosen},
          {"rejected", rejected},
          {"chosen_sample", chosen_sample},
          {"rejected_sample", rejected_sample},
          {"chosen_score", chosen_score},
          {"rejected_score", rejected_score},
          {"chosen_rejected_claims", chosen_rejected_claims},
          {"rejected_rejected_claims", rejected_rejected_claims}};
}

PreferencePair PreferencePair::from_json(const Json& row) {
  return {row.at("prompt_id").get<std::string>(),
          row.at("index").get<std::int64_t>(),
          row.at("question").get<std::string>(),
          row.at("chosen").get<std::string>(),
          row.at("rejected").get<std::string>(),
          row.value("chosen_sample", std::int64_t{0}),
          row.value("rejected_sample", std::int64_t{0}),
          row.value("chosen_score", 0.0),
          row.value("rejected_score", 0.0),
          row.value("chosen_rejected_claims", std::int64_t{0}),
          row.value("rejected_rejected_claims", std::int64_t{0}),
          row.value("picture_key", "")};
}

Json PairReport::to_json() const {
  return {{"prompts", prompts},
          {"prompts_with_pairs", prompts_with_pairs},
          {"answers", answers},
          {"combinations", combinations},
          {"pairs", pairs},
          {"dropped_answers", dropped_answers},
          {"dropped_pairs", dropped_pairs},
          {"length_threshold", length_threshold},
          {"mean_words_chosen", mean_words_chosen},
          {"mean_words_rejected", mean_words_rejected}};
}

std::int64_t count_words(const std::string& text) {
  std::int64_t words = 0;
  bool inside = false;
  for (const char c : text) {
    const bool space = std::isspace(static_cast<unsigned char>(c)) != 0;
    words += !space && !inside ? 1 : 0;
    inside = !space;
  }
  return words;
}

bool is_too_short(const PreferencePair& pair, double r) {
  return is_too_short(count_words(pair.chosen),
                      count_words(pair.rejected),
                      static_cast<int>(std::lround(r * kThresholds)));
}

double length_threshold(const std::vector<PreferencePair>& pairs) {
  std::vector<std::pair<std::int64_t, std::int64_t>> words;
  for (const PreferencePair& pair : pairs)
    words.emplace_back(count_words(pair.chosen), count_words(pair.rejected));
  int best = kThresholds - 1;
  double best_gap = -1;
  for (int step = 0; step < kThresholds; ++step) {
    std::int64_t chosen = 0;
    std::int64_t rejected = 0;
    for (const auto& [words_chosen, words_rejected] : words) {
      if (is_too_short(words_chosen, words_rejected, step)) continue;
      chosen += words_chosen;
      rejected += words_rejected;
    }
    if (rejected == 0) continue;  // nothing is left under this threshold
    const double gap =
        std::abs(static_cast<double>(chosen - rejected)) / static_cast<double>(rejected);
    if (best_gap >= 0 && gap >= best_gap) continue;
    best = step;
    best_gap = gap;
  }
  return static_cast<double>(best) / kThresholds;
}

std::vector<PreferencePair> build_pairs(const std::vector<ScoredPrompt>& prompts,
                                        const PairConfig& config,
                                        std::uint64_t seed,
                                        PairReport& report) {
  std::vector<PreferencePair> pairs;
  for (const ScoredPrompt& prompt : prompts) {
    ++report.prompts;
    report.answers += static_cast<std::int64_t>(prompt.answers.size());
    for (PreferencePair& pair : pairs_of(prompt, config, seed, report))
      pairs.push_back(std::move(pair));
  }
  if (config.length_control && !pairs.empty()) {
    report.length_threshold = length_threshold(pairs);
    const auto dropped = std::erase_if(pairs, [&](const PreferencePair& pair) {
      return is_too_short(pair, report.length_threshold);
    });
    if (dropped > 0) report.dropped_pairs["length control"] += static_cast<std::int64_t>(dropped);
  }
  std::set<std::string> prompts_with_pairs;
  double chosen = 0;
  double rejected = 0;
  for (const PreferencePair& pair : pairs) {
    prompts_with_pairs.insert(pair.prompt_id);
    chosen += static_cast<double>(count_words(pair.chosen));
    rejected += static_cast<double>(count_words(pair.rejected));
  }
  report.pairs = static_cast<std::int64_t>(pairs.size());
  report.prompts_with_pairs = static_cast<std::int64_t>(prompts_with_pairs.size());
  if (!pairs.empty()) {
    report.mean_words_chosen = chosen / static_cast<double>(pairs.size());
    report.mean_words_rejected = rejected / static_cast<double>(pairs.size());
  }
  return pairs;
}

}  // namespace pocketvlm
