// The derivative of silu(gate) * up at one element.
#pragma once

#include <cmath>

#include "kernels/cuda/device.h"

namespace moebius::cuda {

struct SwigluSlope {
  float gate, up;  // of the product, with respect to each; up is silu(gate)
};

__device__ inline SwigluSlope swiglu_slope(float gate, float up) {
  const float s = 1.0f / (1.0f + expf(-gate)), rest = 1.0f / (1.0f + expf(gate));  // s and 1 - s
  return {up * s * fmaf(gate, rest, 1.0f), gate * s};
}

}  // namespace moebius::cuda
