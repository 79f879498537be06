#pragma once

#include <torch/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/distributed/exchange.h"
#include "trainer/distributed/lost_rank.h"

namespace pocketvlm {

class NcclRanks;
class TaskThread;
class Watchdog;

/// The ranks of one job. CPU tensors travel over MPI, CUDA tensors over NCCL (its id over MPI). A process that neither
/// mpirun nor srun started is alone: MPI is then never touched and every operation is free.
///
/// Sums over CPU tensors are taken in the order of the ranks, whatever the message sizes: equal on every rank, and equal
/// to what one process gets that adds the same numbers in the same order.
///
/// All ranks must call the same operations in the same order; to start one counts, whenever it is waited for. MPI is called by one
/// thread alone, in that order, so what was started goes on beside computing. That thread sleeps between looks as long as
/// nobody waits for it: it leaves the processor to those who compute. On CUDA NCCL has a stream of its own instead; it is started by
/// the first collective of a CUDA tensor, so that a stage on CPUs needs no GPU for each rank.
///
/// A rank that does not arrive within the time limit, or whose process ends, is named on standard error and the job is ended.
/// A collective that fails because of it, before the watchdog has noticed, throws LostRank.
class Communicator {
 public:
  /// Joins the job. Throws Error when MPI cannot be started.
  Communicator();
  /// A process that is alone, whatever started it.
  struct Alone {};
  explicit Communicator(Alone /*unused*/);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among those of this machine: its CUDA device
  bool is_first() const { return rank_ == 0; }

  /// Sum of flat [size * n] float32 over the ranks; rank r gets the r-th n of it.
  Exchange start_reduce_scatter(const torch::Tensor& flat);
  /// The parts [n] of all ranks, one after the other: [size * n].
  Exchange start_all_gather(const torch::Tensor& part);
  /// Sum of flat [size * n] float32 over the ranks, whole on every rank.
  Exchange start_all_reduce(const torch::Tensor& flat);

  /// Element-wise sums, the same bits on every rank.
  std::vector<double> sum(const std::vector<double>& values);
  /// One text of every rank, in their order.
  std::vector<std::string> gather_texts(const std::string& text);
  void barrier();

  /// Runs `read`, which blocks until the device has computed what was queued, collectives of CUDA tensors included: whoever does
  /// not come is waited for in it, which the watchdog is told. All ranks call it equally often.
  void while_waiting(const std::function<void()>& read);

  /// Seconds that callers have spent waiting for collectives, for the wire and for ranks that came later. Of CUDA tensors the
  /// device waits, which is not counted.
  double seconds_waited() const { return waited_s_; }
  /// Collectives of CPU tensors that this rank has started, and those that are done.
  int64_t num_started() const { return num_started_; }
  int64_t num_done() const { return num_done_; }

  /// Starts watching the other ranks; collective. What a rank is doing is said by `phase` (for the message).
  void watch(double timeout_s);
  void stop_watching();  // collective
  void phase(const std::string& what);
  /// `told` hears of every phase, on the thread that begins it; for those who watch from outside.
  void on_phase(std::function<void(const std::string&)> told) { told_of_phase_ = std::move(told); }

  /// Ends all ranks with this exit status; returns only when this process is alone.
  void abort(int status);

 private:
  class Waiting;  // marks a collective for the watchdog
  Exchange start(std::function<torch::Tensor()> collective);
  template <typename OnDevice>
  Exchange start(const torch::Tensor& x, OnDevice on_device, std::function<torch::Tensor()> on_host);
  torch::Tensor wait_for(std::future<torch::Tensor>& result);
  void run(const std::function<void()>& collective);
  // On the thread of communication:
  torch::Tensor sum_of_parts(const torch::Tensor& flat);
  torch::Tensor gathered(const torch::Tensor& part);

  int rank_ = 0, size_ = 1, local_rank_ = 0;
  bool joined_ = false;
  std::atomic<int> callers_waiting_{0};
  std::atomic<double> waited_s_{0};
  std::atomic<int64_t> num_started_{0}, num_done_{0};
  std::function<void(const std::string&)> told_of_phase_;
  std::unique_ptr<NcclRanks> nccl_;
  std::shared_ptr<Watchdog> watchdog_;  // of every collective, too, that was started under it
  std::unique_ptr<TaskThread> thread_;  // when there are other ranks
};

}  // namespace pocketvlm
