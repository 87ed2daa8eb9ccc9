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

// Versions of CUDA, 12040 for 12.4: the latest that the driver knows, 0 without a driver, and that which
// libmoebius_cuda.so was built with. kUnsupported as gpu_devices().
struct CudaVersions {
  int driver = 0, library = 0;
};
Result<CudaVersions> cuda_versions();

struct CudaOptions {
  int device = 0;            // as gpu_devices() lists them
  int64_t memory_bytes = 0;  // that alloc() may hand out; 0: all that is free when asked
};
// A device of gpu_devices() as a Backend (streams, pinned memory, flags in pinned memory raised and awaited
// by the device itself). kUnsupported and kNotFound say what is missing.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

}  // namespace moebius
