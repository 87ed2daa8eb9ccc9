// How fast the parts of a machine are for a model, measured with its own experts.
#pragma once

#include "engine/plan_layer.h"
#include "kernels/backend.h"
#include "models/config.h"
#include "models/weights.h"

namespace moebius {

// Brings the experts of a token to the device, and computes them on both sides for one token and for some
// dozens, on the device for some hundreds: well below a second on a GPU. Takes device memory for them, fewer
// tokens and experts where there is little, meanwhile (kNoMemory); the device is idle before and after. The
// speed of the disk is not measured but taken to be kAssumedDiskGBs. weights: of the host; at least one layer
// has experts.
Result<MachineSpeeds> measure_speeds(const ModelConfig& config, const Weights& weights, Backend& host,
                                     Backend& device);

// GB/s of files that are read in pieces of megabytes, where nobody says: what NVMe on four lanes of PCIe 3
// gives. Plans before a model is opened assume the same. A disk of a cloud machine may give half, SATA a
// sixth.
inline constexpr double kAssumedDiskGBs = 3;

}  // namespace moebius
