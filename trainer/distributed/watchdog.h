#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace pocketvlm {

/// Notices when a rank of the job has died, hangs or lags, says which, and ends the job: without it the others would wait
/// in a collective for ever.
///
/// A thread of every rank reports to rank 0 over TCP, apart from MPI, so that no state of MPI can hide a fault: how many
/// collectives the rank has arrived at, whether it waits in one, and what it is doing. Rank 0 names
///   - a rank whose connection breaks (its process ended),
///   - a rank that was not heard of for `timeout_s` (stopped, or its machine is gone),
///   - a rank that others wait for in a collective for `timeout_s` (slow, or it took another path).
/// When rank 0 itself disappears the others say so.
class Watchdog {
 public:
  /// Opens rank 0's port; `address` is what the others need to reach it: "10.0.0.1,172.17.0.1:4567", all of the machine's IPv4
  /// addresses, in the order in which they are to be tried (those of bridges for containers, which no other machine reaches, last).
  static int listen(std::string& address);

  /// The addresses of such a text, one by one: {"10.0.0.1:4567", "172.17.0.1:4567"}. Nothing where it is none.
  static std::vector<std::string> addresses(const std::string& address);

  /// `end_job` is called, on the watching thread, after the message was written.
  Watchdog(int rank,
           int size,
           double timeout_s,
           int listener,
           const std::string& address,
           std::function<void()> end_job);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void arrive();  // at a collective; every arrival has its leave, on any thread
  void leave();   // the collective is done
  void phase(const std::string& what);
  /// Says goodbye: from now on a closed connection is no fault. When all ranks have, rank 0 may destroy its watchdog.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  struct Report;
  struct Peer;

  void work();
  void report_to_first();
  void watch_others();
  void judge(const std::vector<Peer>& peers);
  Report own_report();
  void give_up(const std::string& text);

  int rank_, size_;
  std::chrono::duration<double> timeout_, interval_;
  int socket_ = -1;  // the listener of rank 0, or the connection to it
  std::function<void()> end_job_;
  std::atomic<int64_t> arrived_{0};
  std::atomic<int> waiting_{0};  // collectives, and a read of what the device computes
  std::atomic<bool> finished_{false}, stopped_{false};
  std::mutex mutex_;
  std::string phase_ = "starting";
  std::thread thread_;
};

}  // namespace pocketvlm
