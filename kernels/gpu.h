// What GPUs this machine offers. The CUDA part is a shared library of its own (libmoebius_cuda.so beside the
// program), opened at run time, so that one program starts with or without a driver.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

}  // namespace moebius
