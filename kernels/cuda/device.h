// What a kernel may use of the machine: indices, barriers, shuffles, shared memory, wide loads, launches.
//
// Kernels are written against this header alone, so that they have two implementations: CUDA's, below, and
// the emulator of the tests (tests/cuda_emulator), which runs the threads of a block on the host as fibers,
// in an order drawn from a seed, and checks that between two barriers no element of shared memory is written
// by one thread and touched by another. What it cannot show is said in CONTRIBUTING.md.
//
// Floating point: compiled without contraction, so that a product and a sum are fused only where fmaf says
// so, as on the host. Kernels use no atomics on floats: a result never depends on the order of blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/device.h"
#else
#include <cuda_runtime.h>

namespace moebius::cuda {

using StreamHandle = cudaStream_t;

struct Grid {
  int64_t x = 1;     // up to 2^31 - 1
  int y = 1, z = 1;  // up to 65535
};

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }  // blocks have one dimension
__device__ inline int threads() { return static_cast<int>(blockDim.x); }
__device__ inline int64_t block_x() { return blockIdx.x; }
__device__ inline int block_y() { return static_cast<int>(blockIdx.y); }
__device__ inline int block_z() { return static_cast<int>(blockIdx.z); }
__device__ inline int64_t blocks_x() { return gridDim.x; }

// All threads of the block, or of the warp, must arrive.
__device__ inline void barrier() { __syncthreads(); }
__device__ inline void warp_barrier() { __syncwarp(); }
template <class T>
__device__ T shuffle(T value, int from_lane) {
  return __shfl_sync(0xffffffffu, value, from_lane);
}
template <class T>
__device__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// sum + the dot product of the four signed bytes of a and of b.
__device__ inline int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), sum);
}

// A view of shared memory. element = view[i] and view[i] = element are all that kernels do with it.
template <class T>
struct Shared {
  T* at;
  __device__ T& operator[](int64_t i) const { return at[i]; }
};
// count elements of the block's dynamic shared memory, from a multiple of 16 bytes on.
template <class T>
__device__ Shared<T> dynamic_shared(int64_t offset_bytes, int64_t count) {
  extern __shared__ __align__(16) unsigned char moebius_dynamic_shared[];
  return {reinterpret_cast<T*>(moebius_dynamic_shared + offset_bytes)};
}
// Declares `name`, a Shared<type> of count elements, count a constant.
#define MOEBIUS_SHARED(type, name, count)             \
  __shared__ __align__(16) type name##_memory[count]; \
  const ::moebius::cuda::Shared<type> name { name##_memory }

// Starts a kernel on a stream; its faults come with the next sync. Up to 227 KiB of dynamic shared memory; no
// dimension of the grid may be 0. Parameters are copied bit by bit, 4 KiB of them at most.
template <class... Parameters, class... Args>
void launch(StreamHandle stream, void (*kernel)(Parameters...), Grid grid, int block, size_t shared_bytes,
            Args... args) {
  if (shared_bytes > 48 * 1024)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace moebius::cuda
#endif

namespace moebius::cuda {

inline constexpr int kWarp = 32;

// MOEBIUS_UNROLL: before a loop over an array in registers, whose indices must be constants.
// MOEBIUS_NOT_INLINED: of a function whose code is large, called by kernels whose speed counts less.
#ifdef MOEBIUS_EMULATE_CUDA
#define MOEBIUS_UNROLL
#define MOEBIUS_NOT_INLINED
#else
#define MOEBIUS_UNROLL _Pragma("unroll")
#define MOEBIUS_NOT_INLINED __noinline__
#endif

__device__ inline int lane() { return thread() % kWarp; }
__device__ inline int warp() { return thread() / kWarp; }

// 16 bytes at an address that is a multiple of 16: what one access of a thread reads or writes.
struct alignas(16) Bytes16 {
  uint32_t word[4];
};
__device__ inline Bytes16 load16(const void* at) { return *static_cast<const Bytes16*>(at); }
__device__ inline void store16(void* at, const Bytes16& bytes) { *static_cast<Bytes16*>(at) = bytes; }
__host__ __device__ inline bool aligned16(const void* at, int64_t stride_bytes = 0) {
  return (reinterpret_cast<uintptr_t>(at) | static_cast<uintptr_t>(stride_bytes)) % 16 == 0;
}

// Over the lanes of a warp, always in the same order; every lane gets the result.
__device__ inline float warp_sum(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}
// Over the threads of a block (a multiple of the warp); partial: kWarp elements of shared memory, free to use
// on both sides of the call.
__device__ inline float block_sum(float value, const Shared<float>& partial) {
  value = warp_sum(value);
  barrier();
  if (lane() == 0) partial[warp()] = value;
  barrier();
  return warp_sum(lane() < threads() / kWarp ? static_cast<float>(partial[lane()]) : 0.0f);
}

inline int64_t blocks_for(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

}  // namespace moebius::cuda
