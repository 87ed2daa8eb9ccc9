#include "engine/device_choice.h"

#include <vector>

#include "kernels/gpu.h"

namespace moebius {

int64_t own_bytes(DeviceKind device) { return device == DeviceKind::kCuda ? kCudaWorkBytes : 0; }

Result<MakeDevice> device_maker(DeviceOptions& options, const HostOptions& host) {
  if (options.device == DeviceKind::kAuto) {
    const Result<std::vector<GpuInfo>> gpus = gpu_devices();
    options.device = gpus.ok() && !gpus->empty() ? DeviceKind::kCuda : DeviceKind::kHost;
  }
  if (options.device == DeviceKind::kHost) return MakeDevice();
  if (options.device == DeviceKind::kSim) {
    return MakeDevice([o = options, host](int64_t bytes) {
      return make_sim_backend(
          {bytes, o.link_GBs, o.device_GBs, o.sim_seed, o.sim_fail_work, o.sim_fail_alloc, host});
    });
  }
  MOEBIUS_ASSIGN(const std::vector<GpuInfo> gpus, gpu_devices());
  if (gpus.empty()) return not_found("--device cuda: the driver lists no GPU; use --device host");
  if (options.device_memory == 0) {
    MOEBIUS_ASSIGN(const int64_t free, gpu_free_bytes(0));
    options.device_memory = free / 10 * 9;
  }
  return MakeDevice([](int64_t bytes) { return make_cuda_backend({0, bytes}); });
}

}  // namespace moebius
