// A Backend whose device is emulated: it runs kernels/cuda/*.cu, compiled for the host, in memory that the
// host may not touch. Work is done within the call. What a device would leave undefined ends the program.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "tests/cuda_emulator/memory.h"

namespace moebius::cuda::emulator {

// What operations took of the scratch.
struct ScratchUse {
  int64_t most_bytes = 0;  // at once
  int pieces = 0;          // how often it was used anew within an operation
};

// seed: of the order of threads and blocks. fit: where in their pages pieces of device memory lie.
// scratch_bytes: as of Context. use: filled as operations run, if given.
std::unique_ptr<Backend> make_emulated_backend(uint64_t seed, Fit fit,
                                               int64_t scratch_bytes = int64_t{1} << 30,
                                               ScratchUse* use = nullptr);

}  // namespace moebius::cuda::emulator
