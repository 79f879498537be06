#pragma once

#ifdef POCKETVLM_CUDA

#include <ATen/cuda/CUDAContext.h>
#include <nccl.h>
#include <torch/types.h>

#include <cstddef>
#include <functional>

#include "trainer/distributed/exchange.h"

namespace pocketvlm {

/// NCCL's side of a Communicator: collectives of CUDA tensors on a stream of their own, beside what the device computes. It
/// begins when all is computed that was queued on the current stream, and Exchange::wait lets the then current stream wait for it.
class NcclRanks {
 public:
  /// Collective. `broadcast` sends rank 0's bytes to all.
  NcclRanks(int rank, int size, int device, const std::function<void(void* data, std::size_t bytes)>& broadcast);
  ~NcclRanks();
  NcclRanks(const NcclRanks&) = delete;
  NcclRanks& operator=(const NcclRanks&) = delete;

  Exchange start_reduce_scatter(const torch::Tensor& flat);
  Exchange start_all_gather(const torch::Tensor& part);
  Exchange start_all_reduce(const torch::Tensor& flat);

 private:
  /// Runs `enqueue` on the side stream; input and result are used there.
  Exchange start(const torch::Tensor& input, const torch::Tensor& result, const std::function<void(cudaStream_t)>& enqueue);
  void reduce_scatter(const torch::Tensor& flat, const torch::Tensor& part, cudaStream_t stream) const;
  void all_gather(const torch::Tensor& part, const torch::Tensor& flat, cudaStream_t stream) const;

  int size_;
  ncclComm_t comm_ = nullptr;
  at::cuda::CUDAStream stream_;
};

}  // namespace pocketvlm

#else

namespace pocketvlm {
class NcclRanks {};  // never made
}  // namespace pocketvlm

#endif
