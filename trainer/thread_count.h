#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

namespace pocketvlm {

/// Sets LibTorch's threads while it lives; 0 leaves them as they are.
class ThreadCount {
 public:
  explicit ThreadCount(int64_t threads) : before_(at::get_num_threads()) {
    if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace pocketvlm
