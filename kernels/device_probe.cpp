#include "kernels/device_probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace moebius {
namespace {

constexpr int64_t kLeastBytes = int64_t{1} << 20, kMostPinned = int64_t{64} << 20;
constexpr int64_t kColumns = 4096;
constexpr int kQueued = 4;  // operations in one go, so that their start counts little

// In 1e9 of `bytes` a second, of passes that queue work.
template <class Pass>
Result<double> rate(Backend& device, double bytes, double seconds, const Pass& pass) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> took;
  for (double passed = 0; took.size() < 3 || passed < seconds; passed += took.back()) {
    const Clock::time_point start = Clock::now();
    pass();
    MOEBIUS_TRY(device.sync());
    took.push_back(std::max(1e-9, std::chrono::duration<double>(Clock::now() - start).count()));
  }
  std::ranges::nth_element(took, took.begin() + std::ssize(took) / 2);
  return 1e-9 * bytes / took[took.size() / 2];
}

Result<Buffer> as_much_as_there_is(Backend& device, int64_t bytes) {
  for (;; bytes /= 2) {
    Result<Buffer> memory = device.alloc(static_cast<size_t>(bytes));
    if (memory.ok() || memory.status().code() != Code::kNoMemory || bytes / 2 < kLeastBytes) return memory;
  }
}

}  // namespace

Result<DeviceLimits> probe_device(Backend& device, int64_t bytes, double seconds) {
  MOEBIUS_ASSIGN(const Buffer there, as_much_as_there_is(device, std::max(bytes, kLeastBytes)));
  const size_t crossing = std::min(there.bytes(), static_cast<size_t>(kMostPinned));
  MOEBIUS_ASSIGN(const Buffer here, device.alloc_pinned(crossing));
  DeviceLimits limits;
  const double crossed = static_cast<double>(crossing);
  MOEBIUS_ASSIGN(limits.to_device_GBs, rate(device, crossed, seconds, [&] {
                   device.copy_bytes(Stream::kLoad, here.data(), there.data(), crossing);
                 }));
  MOEBIUS_ASSIGN(limits.to_host_GBs, rate(device, crossed, seconds, [&] {
                   device.copy_bytes(Stream::kLoad, there.data(), here.data(), crossing);
                 }));
  const int64_t rows = static_cast<int64_t>(there.bytes()) / (3 * kColumns * 4);
  const auto third = [&](int64_t i) {
    return Tensor(there.as<float>() + i * rows * kColumns, DType::kF32, {rows, kColumns}, there.space());
  };
  const SwigluArgs args{third(0), third(1), third(2)};
  const double moved = static_cast<double>(kQueued * 3 * rows * kColumns) * 4;
  MOEBIUS_ASSIGN(limits.memory_GBs, rate(device, moved, seconds, [&] {
                   for (int i = 0; i < kQueued; ++i) device.swiglu(args);
                 }));
  return limits;
}

}  // namespace moebius
