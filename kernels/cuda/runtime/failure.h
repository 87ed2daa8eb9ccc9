// The first error of a CUDA device, kept for the next sync().
#pragma once

#include <cuda_runtime.h>

#include <string>

#include <fmt/format.h>

#include "kernels/cuda/no_memory.h"

namespace moebius::cuda {

class Failure {
 public:
  // Whether it succeeded; what: "copy", "expert_ffn".
  bool ok(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return true;
    note(Status(error == cudaErrorMemoryAllocation ? Code::kNoMemory : Code::kIo,
                fmt::format("the GPU failed at {}: {}; {}", what, cudaGetErrorString(error),
                            error == cudaErrorMemoryAllocation ? kDeviceFullRemedy : "start again")));
    return false;
  }
  void note(Status status) {
    if (first_.ok()) first_ = std::move(status);
  }
  const Status& first() const { return first_; }
  void clear() { first_ = Status(); }

 private:
  Status first_;
};

}  // namespace moebius::cuda
