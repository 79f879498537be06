/// Loaded before MPI's library (LD_PRELOAD): once, a collective of rank 1 fails as it does when the link to another rank breaks.
///   POCKETVLM_TEST_LINK_BROKE   file that is made when it happens; while it is there nothing fails
#define OMPI_SKIP_MPICXX 1
#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

namespace {

constexpr int kGoodCalls = 12;  // into the steps of a stage

bool breaks_now() {
  static std::atomic<int> calls{0};
  int rank = 0;
  PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const char* file = std::getenv("POCKETVLM_TEST_LINK_BROKE");
  if (file == nullptr || rank != 1 || ++calls <= kGoodCalls) return false;
  const int fd = ::open(file, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (fd >= 0) ::close(fd);
  return fd >= 0;
}

}  // namespace

extern "C" int MPI_Allgather(const void* from, int from_count, MPI_Datatype from_type, void* to, int to_count, MPI_Datatype to_type, MPI_Comm ranks) {
  if (breaks_now()) return MPI_ERR_OTHER;
  return PMPI_Allgather(from, from_count, from_type, to, to_count, to_type, ranks);
}
