#include "mobile/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <tuple>

namespace pocketvlm {
namespace {

/// The first number in a file; `absent` where there is none.
long number_in(const std::string& path, long absent) {
  std::ifstream file(path);
  long number = 0;
  return file >> number ? number : absent;
}

}  // namespace

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::vector<int> cores_by_speed(const std::string& folder) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {};
  std::vector<std::tuple<bool, long, long, int>> order;  // second hardware thread, -capacity, -clock, number
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &set)) continue;
    const std::string at = folder + "/cpu" + std::to_string(core);
    // A list of siblings begins with the lowest: "0,4" or "0-1".
    const bool second = number_in(at + "/topology/thread_siblings_list", core) != core;
    order.emplace_back(second, -number_in(at + "/cpu_capacity", 0), -number_in(at + "/cpufreq/cpuinfo_max_freq", 0), core);
  }
  std::sort(order.begin(), order.end());
  std::vector<int> cores;
  for (const auto& [second, capacity, clock, core] : order) cores.push_back(core);
  return cores;
}

struct OnCores::Place {
  cpu_set_t set;
};

OnCores::OnCores(const std::vector<int>& cores) {
  if (cores.empty()) return;
  auto before = std::make_unique<Place>();
  CPU_ZERO(&before->set);
  if (sched_getaffinity(0, sizeof(before->set), &before->set) != 0) return;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (const int core : cores) CPU_SET(core, &wanted);
  if (sched_setaffinity(0, sizeof(wanted), &wanted) == 0) before_ = std::move(before);
}

OnCores::~OnCores() {
  if (before_) sched_setaffinity(0, sizeof(before_->set), &before_->set);
}

}  // namespace pocketvlm
