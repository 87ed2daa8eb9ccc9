#include <cmath>

#include "kernels/ops.h"

namespace moebius::ref {

void combine(const CombineArgs& args, bool) {
  const int64_t n = args.slots.shape[0], k = args.slots.shape[1], hidden = args.slots.shape[2];
  for (int64_t t = 0; t < n; ++t) {
    float* y = args.y.f32() + t * args.y.stride[0];
    for (int64_t s = 0; s < k; ++s) {
      if (args.ids.i32()[t * args.ids.stride[0] + s] < 0) continue;
      const float weight = args.weights.empty() ? 1.0f : args.weights.f32()[t * args.weights.stride[0] + s];
      const float* slot = args.slots.f32() + t * args.slots.stride[0] + s * args.slots.stride[1];
      for (int64_t i = 0; i < hidden; ++i) y[i] = std::fma(weight, slot[i], y[i]);
    }
  }
}

}  // namespace moebius::ref
