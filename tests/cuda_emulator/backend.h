// A Backend whose device is emulated: it runs kernels/cuda/*.cu, compiled for the host, in memory that the
// host may not touch. Work is done within the call. What a device would leave undefined ends the program.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "tests/cuda_emulator/memory.h"

namespace moebius::cuda::emulator {

// seed: of the order of threads and blocks. fit: where in their pages pieces of device memory lie.
std::unique_ptr<Backend> make_emulated_backend(uint64_t seed, Fit fit);

}  // namespace moebius::cuda::emulator
