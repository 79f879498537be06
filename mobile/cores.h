#pragma once

#include <memory>
#include <string>
#include <vector>

namespace pocketvlm {

/// Cores that this process may use.
int usable_cores();

/// Their numbers, fastest first: by the capacity that the system gives them, else by their highest clock; of those alike, one
/// hardware thread of each core comes before the second ones. `folder` is where Linux describes its cores; what it does not
/// say counts as equal.
std::vector<int> cores_by_speed(const std::string& folder = "/sys/devices/system/cpu");

/// Keeps the calling thread on some cores and puts it back at the end. No cores: leaves it alone, and so it does where the
/// system refuses: where a thread runs is a matter of speed alone.
class OnCores {
 public:
  explicit OnCores(const std::vector<int>& cores);
  ~OnCores();
  OnCores(const OnCores&) = delete;
  OnCores& operator=(const OnCores&) = delete;

 private:
  struct Place;
  std::unique_ptr<Place> before_;
};

}  // namespace pocketvlm
