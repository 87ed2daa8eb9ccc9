// Probes of a device's limits through its Backend: what a figure of it is a share of.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace moebius {

struct DeviceLimits {                         // in 1e9 bytes a second
  double to_device_GBs = 0, to_host_GBs = 0;  // over the link, of pinned memory
  double memory_GBs = 0;  // of the device's own: read and written by an operation that computes little
};

// Each of them by copies or operations for about so many seconds, at least three, of which the median
// counts. Takes at most `bytes` of the device's memory meanwhile, less where there is less, and as much of
// the host's, at most 64 MiB. kNoMemory; the first error of the device, which is idle before and after.
Result<DeviceLimits> probe_device(Backend& device, int64_t bytes, double seconds);

}  // namespace moebius
