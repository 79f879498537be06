#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pocketvlm {

class Watchdog;

/// Exit status of a job that the watchdog ended: the same command with --resume may well succeed (sysexits' EX_TEMPFAIL).
inline constexpr int kLostRankStatus = 75;

/// The ranks of one job. CPU tensors travel over MPI, CUDA tensors over NCCL (its id over MPI). A process that neither
/// mpirun nor srun started is alone: MPI is then never touched and every operation is free.
///
/// Sums over CPU tensors are taken in the order of the ranks, whatever the message sizes: equal on every rank, and equal
/// to what one process gets that adds the same numbers in the same order.
///
/// All ranks must call the same operations in the same order. A rank that does not arrive within the time limit, or whose
/// process ends, is named on standard error and the job is ended.
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
  torch::Tensor reduce_scatter(const torch::Tensor& flat);
  /// The parts [n] of all ranks, one after the other: [size * n].
  torch::Tensor all_gather(const torch::Tensor& part);
  /// Element-wise sums, the same bits on every rank.
  std::vector<double> sum(const std::vector<double>& values);
  /// One text of every rank, in their order.
  std::vector<std::string> gather_texts(const std::string& text);
  void barrier();

  /// Starts watching the other ranks; collective. What a rank is doing is said by `phase` (for the message).
  void watch(double timeout_s);
  void stop_watching();  // collective
  void phase(const std::string& what);

  /// Ends all ranks with this exit status; returns only when this process is alone.
  void abort(int status);

 private:
  struct Nccl;
  class Waiting;  // marks a collective for the watchdog
  void all_to_all(const void* send, void* receive, int64_t bytes_per_rank);

  int rank_ = 0, size_ = 1, local_rank_ = 0;
  bool joined_ = false;
  std::unique_ptr<Nccl> nccl_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace pocketvlm
