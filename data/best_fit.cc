#include "data/best_fit.h"

#include <algorithm>
#include <cassert>

namespace pocketvlm {

std::vector<std::size_t> best_fit(const std::vector<std::int64_t>& lengths, std::int64_t room) {
  constexpr std::int32_t kUnreached = -1, kEmpty = -2;
  constexpr std::int64_t kMostSteps = 1 << 23;  // about 10 ms
  if (room <= 0) return {};
  const auto considered = std::min(
      lengths.size(), static_cast<std::size_t>(std::max<std::int64_t>(64, kMostSteps / room)));
  // last[sum]: the first place with which `sum` can be reached from places up to it.
  std::vector<std::int32_t> last(static_cast<std::size_t>(room) + 1, kUnreached);
  last[0] = kEmpty;
  std::int64_t highest = 0;
  for (std::size_t i = 0; i < considered && last.back() == kUnreached; ++i) {
    const std::int64_t length = lengths[i];
    assert(length > 0);
    highest = std::min(room, highest + length);
    for (std::int64_t sum = highest; sum >= length; --sum) {
      std::int32_t& place = last[static_cast<std::size_t>(sum)];
      if (place == kUnreached && last[static_cast<std::size_t>(sum - length)] != kUnreached) {
        place = static_cast<std::int32_t>(i);
      }
    }
  }
  std::int64_t sum = room;
  while (last[static_cast<std::size_t>(sum)] == kUnreached) --sum;
  std::vector<std::size_t> chosen;
  while (sum > 0) {
    const auto i = static_cast<std::size_t>(last[static_cast<std::size_t>(sum)]);
    chosen.push_back(i);
    sum -= lengths[i];
  }
  std::reverse(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace pocketvlm
