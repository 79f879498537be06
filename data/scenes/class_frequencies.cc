#include "data/scenes/class_frequencies.h"

#include <algorithm>
#include <map>

namespace pocketvlm {

ClassFrequencies::ClassFrequencies(const std::vector<ObjectClass>& classes) {
  std::map<std::string, int> numbers;
  // 1 / (rank + n / 4): the first class is five times as common as the last. A division, not a power: the
  // same bits on every machine.
  const double quarter = 0.25 * static_cast<double>(classes.size());
  for (std::size_t i = 0; i < classes.size(); ++i) {
    weights_.push_back(1.0 / (static_cast<double>(i) + quarter));
    groups_.push_back(numbers.emplace(classes[i].group, static_cast<int>(numbers.size())).first->second);
  }
}

int ClassFrequencies::draw(Random& random, const std::vector<int>& excluded) const {
  return draw_where(random, excluded, -1);
}

int ClassFrequencies::draw_companion(Random& random, int first, const std::vector<int>& excluded) const {
  if (random.chance(0.5)) {
    const int found = draw_where(random, excluded, groups_[static_cast<std::size_t>(first)]);
    if (found >= 0) return found;
  }
  return draw_where(random, excluded, -1);
}

int ClassFrequencies::draw_where(Random& random, const std::vector<int>& excluded, int group) const {
  const auto allowed = [&](std::size_t i) {
    return (group < 0 || groups_[i] == group) &&
           std::find(excluded.begin(), excluded.end(), static_cast<int>(i)) == excluded.end();
  };
  double total = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) total += allowed(i) ? weights_[i] : 0.0;
  if (total <= 0) return -1;
  double rest = random.uniform() * total;
  int last = -1;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (!allowed(i)) continue;
    last = static_cast<int>(i);
    rest -= weights_[i];
    if (rest < 0) break;
  }
  return last;
}

}  // namespace pocketvlm
