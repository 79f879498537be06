#pragma once

#include <vector>

#include "base/random.h"
#include "data/scenes/object_classes.h"

namespace pocketvlm {

/// How often classes appear, alone and together. As in photographs, some are common (a mild Zipf law over the list)
/// and classes of one group keep company, so that the popular and adversarial negatives of POPE mean something and
/// a model can be misled by what usually appears.
class ClassFrequencies {
 public:
  explicit ClassFrequencies(const std::vector<ObjectClass>& classes);

  /// Any class but the excluded ones; -1 when none is left.
  int draw(Random& random, const std::vector<int>& excluded) const;
  /// With probability 1/2 one of the same group as `first`, else any.
  int draw_companion(Random& random, int first, const std::vector<int>& excluded) const;
  double weight(int class_index) const { return weights_[static_cast<std::size_t>(class_index)]; }

 private:
  int draw_where(Random& random, const std::vector<int>& excluded, int group) const;

  std::vector<double> weights_;
  std::vector<int> groups_;
};

}  // namespace pocketvlm
