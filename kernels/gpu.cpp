#include "kernels/gpu.h"

#include <dlfcn.h>

#include <fmt/format.h>

#include "kernels/cuda/abi.h"

namespace moebius {

Result<std::vector<GpuInfo>> gpu_devices() {
  // Kept open: the library's functions are used until the process ends.
  void* library = dlopen("libmoebius_cuda.so", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    return unsupported(
        "no CUDA backend: build with nvcc on the PATH (CUDA 12 or later) to get libmoebius_cuda.so");
  }
  const auto probe =
      reinterpret_cast<decltype(&moebius_cuda_devices)>(dlsym(library, "moebius_cuda_devices"));
  if (!probe) return unsupported("libmoebius_cuda.so is of another version; build again");
  MoebiusCudaDevice found[kMoebiusCudaMaxDevices];
  char error[kMoebiusCudaErrorBytes] = "";
  const int count = probe(found, kMoebiusCudaMaxDevices, error);
  if (count < 0) return unsupported(fmt::format("no usable GPU: {}; install an NVIDIA driver", error));
  std::vector<GpuInfo> devices;
  for (int i = 0; i < count; ++i) {
    devices.push_back({found[i].name, found[i].memory_bytes, found[i].major, found[i].minor});
  }
  return devices;
}

}  // namespace moebius
