#include <cmath>

#include "kernels/ops.h"

namespace moebius::ref {

void swiglu(const SwigluArgs& args, bool) {
  for (int64_t t = 0; t < args.y.shape[0]; ++t) {
    const float* gate = args.gate.f32() + t * args.gate.stride[0];
    const float* up = args.up.f32() + t * args.up.stride[0];
    float* y = args.y.f32() + t * args.y.stride[0];
    for (int64_t i = 0; i < args.y.shape[1]; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
  }
}

}  // namespace moebius::ref
