#include "trainer/distributed/communicator.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <ATen/Parallel.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>

#ifdef POCKETVLM_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <nccl.h>
#endif

#include "base/error.h"
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

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{} failed: {}", what, std::string(text, static_cast<std::size_t>(length)));
}

int mpi_count(int64_t bytes) {
  // Messages are measured in words of four bytes, so that 8 GiB from each rank to each fit.
  TORCH_INTERNAL_ASSERT(bytes % 4 == 0);
  PV_CHECK(bytes / 4 <= INT_MAX,
           "{} bytes from one rank to another in one message exceed MPI's limit; use more ranks",
           bytes);
  return static_cast<int>(bytes / 4);
}

/// parts [ranks, n] added up in the order of the ranks.
torch::Tensor sum_in_order(const torch::Tensor& parts) {
  torch::Tensor total = parts[0].clone();
  for (int64_t r = 1; r < parts.size(0); ++r) total.add_(parts[r]);
  return total;
}

}  // namespace

struct Communicator::Nccl {
#ifdef POCKETVLM_CUDA
  ncclComm_t comm = nullptr;

  static void check(ncclResult_t code, const char* what) {
    PV_CHECK(code == ncclSuccess, "{} failed: {}", what, ncclGetErrorString(code));
  }
  Nccl(int rank, int size, int device) {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    ncclUniqueId id = {};
    if (rank == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    check_mpi(MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
    check(ncclCommInitRank(&comm, size, id, rank), "ncclCommInitRank");
  }
  ~Nccl() {
    if (comm != nullptr) ncclCommDestroy(comm);
  }
  static ncclDataType_t type(const torch::Tensor& x) {
    if (x.scalar_type() == torch::kFloat32) return ncclFloat32;
    TORCH_INTERNAL_ASSERT(x.scalar_type() == torch::kBFloat16);
    return ncclBfloat16;
  }
  void reduce_scatter(const torch::Tensor& flat, torch::Tensor& part) const {
    check(ncclReduceScatter(flat.const_data_ptr(),
                            part.mutable_data_ptr(),
                            static_cast<std::size_t>(part.numel()),
                            type(flat),
                            ncclSum,
                            comm,
                            at::cuda::getCurrentCUDAStream().stream()),
          "ncclReduceScatter");
  }
  void all_gather(const torch::Tensor& part, torch::Tensor& flat) const {
    check(ncclAllGather(part.const_data_ptr(),
                        flat.mutable_data_ptr(),
                        static_cast<std::size_t>(part.numel()),
                        type(part),
                        comm,
                        at::cuda::getCurrentCUDAStream().stream()),
          "ncclAllGather");
  }
#endif
};

/// The watchdog's view of one collective.
class Communicator::Waiting {
 public:
  explicit Waiting(const Communicator& ranks) : watchdog_(ranks.watchdog_.get()) {
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
  // CUDA backwards run on a thread of their own, which then talks to the others.
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
#ifdef POCKETVLM_CUDA
  if (size_ > 1 && at::hasCUDA()) nccl_ = std::make_unique<Nccl>(rank_, size_, local_rank_);
#endif
}

Communicator::Communicator(Alone /*unused*/) {}

Communicator::~Communicator() {
  stop_watching();
  nccl_.reset();
  if (joined_) MPI_Finalize();
}

void Communicator::stop_watching() {
  if (!watchdog_) return;
  watchdog_->finish();
  // Rank 0's watchdog must outlive the last report that is not a goodbye.
  if (std::uncaught_exceptions() == 0) MPI_Barrier(MPI_COMM_WORLD);
  watchdog_.reset();
}

void Communicator::all_to_all(const void* send, void* receive, int64_t bytes_per_rank) {
  const int count = mpi_count(bytes_per_rank);
  const Waiting waiting(*this);
  check_mpi(MPI_Alltoall(send, count, MPI_UINT32_T, receive, count, MPI_UINT32_T, MPI_COMM_WORLD), "MPI_Alltoall");
}

torch::Tensor Communicator::reduce_scatter(const torch::Tensor& flat) {
  TORCH_INTERNAL_ASSERT(flat.dim() == 1 && flat.is_contiguous() && flat.numel() % size_ == 0 &&
                        flat.scalar_type() == torch::kFloat32);
  if (size_ == 1) return flat;
  const int64_t part = flat.numel() / size_;
#ifdef POCKETVLM_CUDA
  if (flat.is_cuda()) {
    const Waiting waiting(*this);
    torch::Tensor result = torch::empty({part}, flat.options());
    nccl_->reduce_scatter(flat, result);
    return result;
  }
#endif
  torch::Tensor received = torch::empty({size_, part}, flat.options());
  all_to_all(flat.const_data_ptr(), received.mutable_data_ptr(), part * 4);
  return sum_in_order(received);
}

torch::Tensor Communicator::all_gather(const torch::Tensor& part) {
  TORCH_INTERNAL_ASSERT(part.dim() == 1 && part.is_contiguous());
  if (size_ == 1) return part;
  torch::Tensor flat = torch::empty({part.numel() * size_}, part.options());
  const Waiting waiting(*this);
#ifdef POCKETVLM_CUDA
  if (part.is_cuda()) {
    nccl_->all_gather(part, flat);
    return flat;
  }
#endif
  const int count = mpi_count(static_cast<int64_t>(part.nbytes()));
  check_mpi(MPI_Allgather(part.const_data_ptr(),
                          count,
                          MPI_UINT32_T,
                          flat.mutable_data_ptr(),
                          count,
                          MPI_UINT32_T,
                          MPI_COMM_WORLD),
            "MPI_Allgather");
  return flat;
}

std::vector<double> Communicator::sum(const std::vector<double>& values) {
  if (size_ == 1) return values;
  const Waiting waiting(*this);
  std::vector<double> all(values.size() * static_cast<std::size_t>(size_));
  const int count = static_cast<int>(values.size());
  check_mpi(
      MPI_Allgather(values.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, MPI_COMM_WORLD),
      "MPI_Allgather");
  std::vector<double> total(values.size(), 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) total[i % values.size()] += all[i];
  return total;
}

std::vector<std::string> Communicator::gather_texts(const std::string& text) {
  if (size_ == 1) return {text};
  const Waiting waiting(*this);
  const auto ranks = static_cast<std::size_t>(size_);
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(ranks), begins(ranks);
  check_mpi(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather");
  int total = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    begins[r] = total;
    total += lengths[r];
  }
  std::string all(static_cast<std::size_t>(total), '\0');
  check_mpi(MPI_Allgatherv(text.data(),
                           length,
                           MPI_CHAR,
                           all.data(),
                           lengths.data(),
                           begins.data(),
                           MPI_CHAR,
                           MPI_COMM_WORLD),
            "MPI_Allgatherv");
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < ranks; ++r) {
    texts.push_back(all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
  }
  return texts;
}

void Communicator::barrier() {
  if (size_ == 1) return;
  const Waiting waiting(*this);
  check_mpi(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier");
}

void Communicator::watch(double timeout_s) {
  if (size_ == 1) return;
  stop_watching();
  std::string address;
  int listener = -1;
  if (rank_ == 0) listener = Watchdog::listen(address);
  address = gather_texts(address).front();
  watchdog_ = std::make_unique<Watchdog>(rank_, size_, timeout_s, listener, address, [] { MPI_Abort(MPI_COMM_WORLD, kLostRankStatus); });
}

void Communicator::phase(const std::string& what) {
  if (watchdog_) watchdog_->phase(what);
}

void Communicator::abort(int status) {
  if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, status);
}

}  // namespace pocketvlm
