// What to say when memory of a device cannot be had. Without CUDA's headers, so that it is tested everywhere.
#pragma once

#include <cstddef>

#include <fmt/format.h>

#include "kernels/status.h"

namespace moebius::cuda {

inline constexpr const char* kDeviceFullRemedy = "close other programs that use it, or lower --gpu-memory";

// left: of what the backend may take. free: on the device, where others may have taken what the backend may.
inline Status no_device_memory(size_t bytes, size_t left, size_t free) {
  if (bytes > left)
    return no_memory(fmt::format(
        "{} bytes of the GPU's memory are needed, {} of --gpu-memory are left; raise it", bytes, left));
  return no_memory(fmt::format("{} bytes of the GPU's memory are needed, {} are free; {}", bytes, free,
                               kDeviceFullRemedy));
}

}  // namespace moebius::cuda
