// The GPUs of this machine. The CUDA part is a shared library of its own (libmoebius_cuda.so beside the
// program), opened at run time, so that one program starts with or without a driver.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/status.h"

namespace moebius {

struct GpuInfo {
  std::string name;
  int64_t memory_bytes = 0;
  int major = 0, minor = 0;  // compute capability
};

// kUnsupported: built without CUDA, or no driver; the message says how to get it. An empty list: a driver
// without devices.
Result<std::vector<GpuInfo>> gpu_devices();
// What nobody has taken of the memory of a device that gpu_devices() lists. The driver's own part of this
// process, some hundred MB, is taken by asking. kUnsupported.
Result<int64_t> gpu_free_bytes(int device);

// What a backend takes of the device's memory for itself when it is made: scratch of operations, which go
// through many tokens in pieces that need no more, and cuBLAS' workspace. Enough for expanded MLA of
// DeepSeek-V3's size, of which only the softmax's sums grow with the tokens. What is larger (attention's
// gradients of thousands of tokens with as many heads, larger matrices) is allocated later, beyond this.
inline constexpr int64_t kCudaWorkBytes = int64_t{288} << 20;

// Versions of CUDA, 12040 for 12.4: the latest that the driver knows, 0 without a driver, and that which
// libmoebius_cuda.so was built with. kUnsupported as gpu_devices().
struct CudaVersions {
  int driver = 0, library = 0;
};
Result<CudaVersions> cuda_versions();

struct CudaOptions {
  int device = 0;            // as gpu_devices() lists them
  int64_t memory_bytes = 0;  // that it may take, kCudaWorkBytes among them; 0: all that is free when asked
};
// A device of gpu_devices() as a Backend (streams, pinned memory, flags in pinned memory raised and awaited
// by the device itself). kUnsupported and kNotFound say what is missing.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

}  // namespace moebius
