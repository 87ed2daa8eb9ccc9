#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/abi.h"

int moebius_cuda_devices(MoebiusCudaDevice* devices, int limit, char* error) {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) return 0;
  for (int i = 0; status == cudaSuccess && i < count && i < limit; ++i) {
    cudaDeviceProp properties;
    status = cudaGetDeviceProperties(&properties, i);
    if (status != cudaSuccess) break;
    std::snprintf(devices[i].name, sizeof devices[i].name, "%s", properties.name);
    devices[i].memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    devices[i].major = properties.major;
    devices[i].minor = properties.minor;
  }
  if (status == cudaSuccess) return count < limit ? count : limit;
  std::snprintf(error, kMoebiusCudaErrorBytes, "%s", cudaGetErrorString(status));
  return -1;
}

int64_t moebius_cuda_free_bytes(int device, char* error) {
  size_t free = 0, total = 0;
  cudaError_t status = cudaSetDevice(device);
  if (status == cudaSuccess) status = cudaMemGetInfo(&free, &total);
  if (status == cudaSuccess) return static_cast<int64_t>(free);
  std::snprintf(error, kMoebiusCudaErrorBytes, "%s", cudaGetErrorString(status));
  return -1;
}

void moebius_cuda_versions(int* driver, int* library) {
  if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
  if (cudaRuntimeGetVersion(library) != cudaSuccess) *library = CUDART_VERSION;
}
