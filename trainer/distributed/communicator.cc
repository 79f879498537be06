#include "trainer/distributed/communicator.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <chrono>
#include <climits>
#include <cstdlib>
#include <exception>
#include <thread>
#include <utility>

#include "base/error.h"
#include "trainer/distributed/nccl_ranks.h"
#include "trainer/distributed/task_thread.h"
#include "trainer/distributed/watchdog.h"

namespace pocketvlm {
namespace {

/// Whether a launcher started this process as one of several.
bool has_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

/// What MPI refuses once it is running is the fault of the wire or of another rank: the arguments are right by construction.
void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw LostRank(fmt::format("{} failed: {}", what, std::string(text, static_cast<std::size_t>(length))));
}

int mpi_count(int64_t bytes) {
  // Messages are measured in words of four bytes, so that 8 GiB from each rank to each fit.
  TORCH_INTERNAL_ASSERT(bytes % 4 == 0);
  PV_CHECK(bytes / 4 <= INT_MAX,
           "{} bytes from one rank to another in one message exceed MPI's limit; use more ranks",
           bytes);
  return static_cast<int>(bytes / 4);
}

/// parts [ranks, n] added up in the order of the ranks. On this thread alone: the others compute.
torch::Tensor sum_in_order(const torch::Tensor& parts) {
  torch::Tensor total = parts[0].clone();
  const int64_t n = total.numel();
  auto* const sums = total.mutable_data_ptr<float>();
  for (int64_t r = 1; r < parts.size(0); ++r) {
    const auto* const part = parts.const_data_ptr<float>() + r * n;
    for (int64_t i = 0; i < n; ++i) sums[i] += part[i];
  }
  return total;
}

/// Looks at the request until it is done; sleeps in between, so that others have the processor, unless `in_a_hurry`.
void finish(MPI_Request& request, const std::function<bool()>& in_a_hurry) {
  constexpr std::chrono::microseconds kNap(20);
  int done = 0;
  while (true) {
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done != 0) return;
    if (in_a_hurry()) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
}

}  // namespace

/// The watchdog's view of one collective.
class Communicator::Waiting {
 public:
  explicit Waiting(Watchdog* watchdog) : watchdog_(watchdog) {
    if (watchdog_ != nullptr) watchdog_->arrive();
  }
  ~Waiting() {
    if (watchdog_ != nullptr) watchdog_->leave();
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  Watchdog* watchdog_;
};

Communicator::Communicator() {
  if (!has_launcher()) return;
  int granted = 0;
  // A thread of its own talks to the others, but one more starts MPI, ends it, and aborts.
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &granted), "MPI_Init_thread");
  joined_ = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  PV_CHECK(size_ == 1 || granted == MPI_THREAD_MULTIPLE,
           "this MPI library grants no calls from several threads; use one built with MPI_THREAD_MULTIPLE");
  MPI_Comm node;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_free(&node);
  if (size_ > 1) thread_ = std::make_unique<TaskThread>();
}

Communicator::Communicator(Alone /*unused*/) {}

Communicator::~Communicator() {
  stop_watching();
  thread_.reset();
  nccl_.reset();
  if (joined_) MPI_Finalize();
}

void Communicator::stop_watching() {
  if (!watchdog_) return;
  watchdog_->finish();
  // Rank 0's watchdog must outlive the last report that is not a goodbye.
  if (std::uncaught_exceptions() == 0) {
    thread_->start([] {
      MPI_Barrier(MPI_COMM_WORLD);  // unchecked: all is done, and a rank that is lost now is the watchdog's
      return torch::Tensor();
    }).wait();
  }
  watchdog_.reset();
}

Exchange Communicator::start(std::function<torch::Tensor()> collective) {
  ++num_started_;
  // The watchdog of now: a rank may stop watching on its way out of an error, while this still runs.
  auto task = [this, watchdog = watchdog_, collective = std::move(collective)] {
    const Waiting waiting(watchdog.get());
    torch::Tensor result = collective();
    ++num_done_;
    return result;
  };
  const auto result = std::make_shared<std::future<torch::Tensor>>(thread_->start(std::move(task)));
  return Exchange([this, result] { return wait_for(*result); });
}

torch::Tensor Communicator::wait_for(std::future<torch::Tensor>& result) {
  const auto begin = std::chrono::steady_clock::now();
  ++callers_waiting_;
  result.wait();
  --callers_waiting_;
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result.get();
}

void Communicator::run(const std::function<void()>& collective) {
  start([&] {
    collective();
    return torch::Tensor();
  }).wait();
}

torch::Tensor Communicator::sum_of_parts(const torch::Tensor& flat) {
  const int64_t part = flat.numel() / size_;
  const int count = mpi_count(part * 4);
  torch::Tensor received = torch::empty({size_, part}, flat.options());
  MPI_Request request;
  check_mpi(MPI_Ialltoall(flat.const_data_ptr(),
                          count,
                          MPI_UINT32_T,
                          received.mutable_data_ptr(),
                          count,
                          MPI_UINT32_T,
                          MPI_COMM_WORLD,
                          &request),
            "MPI_Ialltoall");
  finish(request, [this] { return callers_waiting_ > 0; });
  return sum_in_order(received);
}

torch::Tensor Communicator::gathered(const torch::Tensor& part) {
  const int count = mpi_count(static_cast<int64_t>(part.nbytes()));
  torch::Tensor flat = torch::empty({part.numel() * size_}, part.options());
  MPI_Request request;
  check_mpi(MPI_Iallgather(part.const_data_ptr(),
                           count,
                           MPI_UINT32_T,
                           flat.mutable_data_ptr(),
                           count,
                           MPI_UINT32_T,
                           MPI_COMM_WORLD,
                           &request),
            "MPI_Iallgather");
  finish(request, [this] { return callers_waiting_ > 0; });
  return flat;
}

/// A collective of x: by NCCL where it is a CUDA tensor, else on the thread of communication. Alone, x is the result.
template <typename OnDevice>
Exchange Communicator::start(const torch::Tensor& x,
                             [[maybe_unused]] OnDevice on_device,
                             std::function<torch::Tensor()> on_host) {
  TORCH_INTERNAL_ASSERT(x.dim() == 1 && x.is_contiguous());
  if (size_ == 1) return Exchange([x] { return x; });
#ifdef POCKETVLM_CUDA
  if (x.is_cuda()) {
    const Waiting waiting(watchdog_.get());
    if (!nccl_) {  // on all ranks now: they start the same collectives
      nccl_ = std::make_unique<NcclRanks>(rank_, size_, x.device().index(), [this](void* data, std::size_t bytes) {
        run([&] { check_mpi(MPI_Bcast(data, static_cast<int>(bytes), MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast"); });
      });
    }
    return on_device(*nccl_);
  }
#endif
  return start(std::move(on_host));
}

Exchange Communicator::start_reduce_scatter(const torch::Tensor& flat) {
  TORCH_INTERNAL_ASSERT(flat.numel() % size_ == 0 && flat.scalar_type() == torch::kFloat32);
  return start(
      flat, [&](auto& nccl) { return nccl.start_reduce_scatter(flat); }, [this, flat] { return sum_of_parts(flat); });
}

Exchange Communicator::start_all_gather(const torch::Tensor& part) {
  return start(part, [&](auto& nccl) { return nccl.start_all_gather(part); }, [this, part] { return gathered(part); });
}

Exchange Communicator::start_all_reduce(const torch::Tensor& flat) {
  TORCH_INTERNAL_ASSERT(flat.numel() % size_ == 0 && flat.scalar_type() == torch::kFloat32);
  return start(
      flat, [&](auto& nccl) { return nccl.start_all_reduce(flat); }, [this, flat] { return gathered(sum_of_parts(flat)); });
}

std::vector<double> Communicator::sum(const std::vector<double>& values) {
  if (size_ == 1) return values;
  std::vector<double> all(values.size() * static_cast<std::size_t>(size_));
  const int count = static_cast<int>(values.size());
  run([&] {
    check_mpi(MPI_Allgather(values.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, MPI_COMM_WORLD), "MPI_Allgather");
  });
  std::vector<double> total(values.size(), 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) total[i % values.size()] += all[i];
  return total;
}

std::vector<std::string> Communicator::gather_texts(const std::string& text) {
  if (size_ == 1) return {text};
  const auto ranks = static_cast<std::size_t>(size_);
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(ranks), begins(ranks);
  std::string all;
  run([&] {
    check_mpi(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather");
    int total = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      begins[r] = total;
      total += lengths[r];
    }
    all.resize(static_cast<std::size_t>(total));
    check_mpi(MPI_Allgatherv(text.data(),
                             length,
                             MPI_CHAR,
                             all.data(),
                             lengths.data(),
                             begins.data(),
                             MPI_CHAR,
                             MPI_COMM_WORLD),
              "MPI_Allgatherv");
  });
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < ranks; ++r) {
    texts.push_back(all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
  }
  return texts;
}

void Communicator::barrier() {
  if (size_ == 1) return;
  // One of the ranks may be at work that is its alone, for long.
  run([] {
    MPI_Request request;
    check_mpi(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier");
    finish(request, [] { return false; });
  });
}

void Communicator::while_waiting(const std::function<void()>& read) {
  const Waiting waiting(watchdog_.get());
  read();
}

void Communicator::watch(double timeout_s) {
  if (size_ == 1) return;
  stop_watching();
  std::string address;
  int listener = -1;
  if (rank_ == 0) listener = Watchdog::listen(address);
  address = gather_texts(address).front();
  watchdog_ = std::make_shared<Watchdog>(rank_, size_, timeout_s, listener, address, [] { MPI_Abort(MPI_COMM_WORLD, kLostRankStatus); });
}

void Communicator::phase(const std::string& what) {
  if (watchdog_) watchdog_->phase(what);
  if (told_of_phase_) told_of_phase_(what);
}

void Communicator::abort(int status) {
  if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, status);
}

}  // namespace pocketvlm
