// The C interface of libmoebius_cuda.so, the only thing that the program and the library share.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

inline constexpr int kMoebiusCudaMaxDevices = 16;
inline constexpr int kMoebiusCudaErrorBytes = 256;

struct MoebiusCudaDevice {
  char name[256];
  int64_t memory_bytes;
  int major, minor;
};

namespace moebius::cuda {

// Differs between builds whose operations or their arguments differ.
constexpr uint64_t layout_checksum() {
  uint64_t sum = sizeof(Buffer);
#define X(op, Args) sum = sum * 1099511628211u + sizeof(Args);
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X
  return sum;
}

}  // namespace moebius::cuda

extern "C" {
// Fills devices [0, limit) and returns how many there are, or -1 with a text in error
// [kMoebiusCudaErrorBytes].
__attribute__((visibility("default"))) int moebius_cuda_devices(MoebiusCudaDevice* devices, int limit,
                                                                char* error);
// The bytes of a device that no program has taken, or -1 with a text in error.
__attribute__((visibility("default"))) int64_t moebius_cuda_free_bytes(int device, char* error);
// Versions of CUDA, 12040 for 12.4: the latest that the driver knows, 0 without one, and that of the library.
__attribute__((visibility("default"))) void moebius_cuda_versions(int* driver, int* library);
// A moebius::Backend* of a device that moebius_cuda_devices listed, the caller's to delete, or null with a
// text in error. memory_bytes: that it may take, 0 for all that is free.
__attribute__((visibility("default"))) void* moebius_cuda_backend(uint64_t layout_checksum, int device,
                                                                  int64_t memory_bytes, char* error);
}
