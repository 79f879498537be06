#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "model/kernels/cuda/device_launches.h"

/// What all device kernels share: packs of neighbouring elements, sums over a block, sizes of launches. Everything has internal
/// linkage, because every .cu file has its own copy.
namespace pocketvlm::kernels::device {
namespace {

using Bf16 = __nv_bfloat16;

/// `V` neighbouring elements of a row, as floats in registers.
template <int V>
struct Pack {
  static_assert(V == 1 || V == 4);
  float at[V];
};

template <int V>
__device__ __forceinline__ Pack<V> load(const float* p) {
  Pack<V> pack;
  if constexpr (V == 4) {
    const float4 four = *reinterpret_cast<const float4*>(p);
    pack.at[0] = four.x;
    pack.at[1] = four.y;
    pack.at[2] = four.z;
    pack.at[3] = four.w;
  } else {
    pack.at[0] = *p;
  }
  return pack;
}

/// A bfloat16 is the upper half of a float32; the first of two in a word is its lower half.
template <int V>
__device__ __forceinline__ Pack<V> load(const Bf16* p) {
  Pack<V> pack;
  if constexpr (V == 4) {
    const uint2 words = *reinterpret_cast<const uint2*>(p);
    pack.at[0] = __uint_as_float(words.x << 16);
    pack.at[1] = __uint_as_float(words.x & 0xffff0000U);
    pack.at[2] = __uint_as_float(words.y << 16);
    pack.at[3] = __uint_as_float(words.y & 0xffff0000U);
  } else {
    pack.at[0] = __bfloat162float(*p);
  }
  return pack;
}

template <int V>
__device__ __forceinline__ void store(float* p, const Pack<V>& pack) {
  if constexpr (V == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(pack.at[0], pack.at[1], pack.at[2], pack.at[3]);
  } else {
    *p = pack.at[0];
  }
}

__device__ __forceinline__ unsigned int word_of(float first, float second) {
  const unsigned int low = __bfloat16_as_ushort(__float2bfloat16_rn(first));
  const unsigned int high = __bfloat16_as_ushort(__float2bfloat16_rn(second));
  return low | (high << 16);
}

template <int V>
__device__ __forceinline__ void store(Bf16* p, const Pack<V>& pack) {
  if constexpr (V == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(word_of(pack.at[0], pack.at[1]), word_of(pack.at[2], pack.at[3]));
  } else {
    *p = __float2bfloat16_rn(pack.at[0]);
  }
}

constexpr int kWarp = 32;
constexpr unsigned int kWholeWarp = 0xffffffffU;

__device__ __forceinline__ float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
}

/// The sum over all threads of the block, which all must call it; every thread gets it. Blocks are whole warps, 32 at most.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float parts[kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warp_sum(value);
  __syncthreads();  // whoever still reads the parts of an earlier sum
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarp ? parts[lane] : 0.0F);
}

/// Threads of a block that walks a row of `packs` together: whole warps.
inline unsigned int threads_for(int64_t packs, unsigned int most) {
  unsigned int threads = kWarp;
  while (threads < most && threads < packs) threads *= 2;
  return threads;
}

/// Blocks for rows that each are a block's work; kernels walk on by the size of the grid.
inline unsigned int blocks_for(int64_t rows) {
  constexpr int64_t kMost = 1 << 20;
  return static_cast<unsigned int>(std::min(rows, kMost));
}

/// Whether packs of four can be read there. A null pointer is read by nobody.
inline bool takes_fours(const void* p, Type type) {
  const std::uintptr_t bytes = type == Type::kFloat ? sizeof(float4) : sizeof(uint2);
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

template <typename T>
struct Tag {
  using Element = T;
};

/// Calls `use` with the tag of the type.
template <typename Use>
void by_type(Type type, Use use) {
  if (type == Type::kFloat) {
    use(Tag<float>());
  } else {
    use(Tag<Bf16>());
  }
}

template <int V>
struct Width {
  static constexpr int kPack = V;
};

/// Calls `use` with the number of elements that a thread reads at once.
template <typename Use>
void by_width(bool fours, Use use) {
  if (fours) {
    use(Width<4>());
  } else {
    use(Width<1>());
  }
}

}  // namespace
}  // namespace pocketvlm::kernels::device
