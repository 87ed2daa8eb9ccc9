// The check at the start of a device: the same small work there and on the host, compared.
#pragma once

#include "kernels/backend.h"
#include "models/config.h"
#include "models/weights.h"

namespace moebius {

inline constexpr int64_t kDeviceSlack = 1 << 20;  // bytes of the device, for rounding and for the self-check

// One random token through the first query projection, and through the first expert of some layers that is on
// the device; where none is, through one that is brought there meanwhile, if the device has memory for it:
// experts that are streamed need more, so that without it none is computed there. kIo: they differ by more
// than the weights' formats explain; the message names the operation, its shape and the largest difference.
// host: the same weights on the host.
Status self_check(const ModelConfig& config, const Weights& host, const Weights& placed, Backend& device);

}  // namespace moebius
