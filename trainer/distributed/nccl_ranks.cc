#include "trainer/distributed/nccl_ranks.h"

#ifdef POCKETVLM_CUDA

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>

#include <memory>
#include <string>

#include "base/error.h"
#include "trainer/distributed/lost_rank.h"

namespace pocketvlm {
namespace {

void check(ncclResult_t code, const char* what) {
  if (code == ncclSuccess) return;
  const std::string text = fmt::format("{} failed: {}", what, ncclGetErrorString(code));
  // Only these two are our own mistakes; all others tell of the wire, the driver or another rank.
  if (code == ncclInvalidArgument || code == ncclInvalidUsage) throw Error(text);
  throw LostRank(text);
}

ncclDataType_t type_of(const torch::Tensor& x) {
  if (x.scalar_type() == torch::kFloat32) return ncclFloat32;
  TORCH_INTERNAL_ASSERT(x.scalar_type() == torch::kBFloat16);
  return ncclBfloat16;
}

}  // namespace

NcclRanks::NcclRanks(int rank, int size, int device, const std::function<void(void*, std::size_t)>& broadcast)
    : size_(size), stream_(at::cuda::getStreamFromPool(/*isHighPriority=*/true, static_cast<c10::DeviceIndex>(device))) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  ncclUniqueId id = {};
  if (rank == 0) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
  broadcast(&id, sizeof id);
  check(ncclCommInitRank(&comm_, size, id, rank), "ncclCommInitRank");
}

NcclRanks::~NcclRanks() {
  if (comm_ != nullptr) ncclCommDestroy(comm_);
}

Exchange NcclRanks::start(const torch::Tensor& input,
                          const torch::Tensor& result,
                          const std::function<void(cudaStream_t)>& enqueue) {
  const c10::cuda::CUDAGuard guard(input.device());
  at::cuda::CUDAEvent computed;
  computed.record(at::cuda::getCurrentCUDAStream());
  computed.block(stream_);
  enqueue(stream_.stream());
  // Whoever drops these tensors first, their memory is used again only after this stream is done with it.
  input.record_stream(stream_.unwrap());
  result.record_stream(stream_.unwrap());
  const auto done = std::make_shared<at::cuda::CUDAEvent>();
  done->record(stream_);
  return Exchange([input, result, done] {
    const c10::cuda::CUDAGuard device(result.device());
    done->block(at::cuda::getCurrentCUDAStream());
    return result;
  });
}

void NcclRanks::reduce_scatter(const torch::Tensor& flat, const torch::Tensor& part, cudaStream_t stream) const {
  check(ncclReduceScatter(flat.const_data_ptr(),
                          part.mutable_data_ptr(),
                          static_cast<std::size_t>(part.numel()),
                          type_of(flat),
                          ncclSum,
                          comm_,
                          stream),
        "ncclReduceScatter");
}

void NcclRanks::all_gather(const torch::Tensor& part, const torch::Tensor& flat, cudaStream_t stream) const {
  check(ncclAllGather(part.const_data_ptr(),
                      flat.mutable_data_ptr(),
                      static_cast<std::size_t>(part.numel()),
                      type_of(part),
                      comm_,
                      stream),
        "ncclAllGather");
}

Exchange NcclRanks::start_reduce_scatter(const torch::Tensor& flat) {
  const torch::Tensor part = torch::empty({flat.numel() / size_}, flat.options());
  return start(flat, part, [&](cudaStream_t stream) { reduce_scatter(flat, part, stream); });
}

Exchange NcclRanks::start_all_gather(const torch::Tensor& part) {
  const torch::Tensor flat = torch::empty({part.numel() * size_}, part.options());
  return start(part, flat, [&](cudaStream_t stream) { all_gather(part, flat, stream); });
}

Exchange NcclRanks::start_all_reduce(const torch::Tensor& flat) {
  const torch::Tensor part = torch::empty({flat.numel() / size_}, flat.options());
  const torch::Tensor result = torch::empty_like(flat);
  Exchange exchange = start(flat, result, [&](cudaStream_t stream) {
    reduce_scatter(flat, part, stream);
    all_gather(part, result, stream);
  });
  part.record_stream(stream_.unwrap());
  return exchange;
}

}  // namespace pocketvlm

#endif
