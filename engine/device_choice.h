// Which device options name, and how to make it.
#pragma once

#include <functional>
#include <memory>

#include "engine/options.h"

namespace moebius {

// Makes a backend that takes so many bytes of memory, own_bytes() among them.
using MakeDevice = std::function<Result<std::unique_ptr<Backend>>(int64_t bytes)>;

// Bytes that a device takes of its memory for its operations, whatever the model.
int64_t own_bytes(DeviceKind device);

// Empty for the host. kAuto becomes what it stands for, and a device_memory of 0 nine tenths of what the
// GPU has free, if it is one. host: of the simulated device's maths. kNotFound: there is no GPU.
Result<MakeDevice> device_maker(DeviceOptions& options, const HostOptions& host);

}  // namespace moebius
