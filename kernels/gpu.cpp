#include "kernels/gpu.h"

#include <dlfcn.h>

#include <fmt/format.h>

#include "kernels/cuda/abi.h"

namespace moebius {

namespace {

// Kept open: the library's functions are used until the process ends.
Result<void*> open_library() {
  if (void* library = dlopen("libmoebius_cuda.so", RTLD_NOW | RTLD_LOCAL)) return library;
  return unsupported(fmt::format(
      "no CUDA backend ({}): build with nvcc on the PATH (CUDA 12.8 or later) to get libmoebius_cuda.so",
      dlerror()));
}

Result<void*> function_of(void* library, const char* name) {
  if (void* function = dlsym(library, name)) return function;
  return unsupported("libmoebius_cuda.so is of another version; build again");
}

}  // namespace

Result<std::vector<GpuInfo>> gpu_devices() {
  MOEBIUS_ASSIGN(void* const library, open_library());
  MOEBIUS_ASSIGN(void* const function, function_of(library, "moebius_cuda_devices"));
  const auto probe = reinterpret_cast<decltype(&moebius_cuda_devices)>(function);
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

Result<int64_t> gpu_free_bytes(int device) {
  MOEBIUS_ASSIGN(void* const library, open_library());
  MOEBIUS_ASSIGN(void* const function, function_of(library, "moebius_cuda_free_bytes"));
  char error[kMoebiusCudaErrorBytes] = "";
  const int64_t bytes = reinterpret_cast<decltype(&moebius_cuda_free_bytes)>(function)(device, error);
  if (bytes < 0) return unsupported(fmt::format("GPU {} cannot be opened: {}", device, error));
  return bytes;
}

Result<CudaVersions> cuda_versions() {
  MOEBIUS_ASSIGN(void* const library, open_library());
  MOEBIUS_ASSIGN(void* const function, function_of(library, "moebius_cuda_versions"));
  CudaVersions versions;
  reinterpret_cast<decltype(&moebius_cuda_versions)>(function)(&versions.driver, &versions.library);
  return versions;
}

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  MOEBIUS_ASSIGN(const std::vector<GpuInfo> devices, gpu_devices());
  if (options.device < 0 || options.device >= std::ssize(devices))
    return not_found(devices.empty() ? std::string("no device: the driver lists no GPU")
                                     : fmt::format("no GPU {}: this machine has GPUs 0 to {}", options.device,
                                                   devices.size() - 1));
  MOEBIUS_ASSIGN(void* const library, open_library());
  MOEBIUS_ASSIGN(void* const function, function_of(library, "moebius_cuda_backend"));
  const auto make = reinterpret_cast<decltype(&moebius_cuda_backend)>(function);
  char error[kMoebiusCudaErrorBytes] = "";
  void* backend = make(cuda::layout_checksum(), options.device, options.memory_bytes, error);
  if (!backend) return unsupported(error);
  return std::unique_ptr<Backend>(static_cast<Backend*>(backend));
}

}  // namespace moebius
