#include "kernels/grad_ops.h"

namespace moebius::ref {

void combine_backward(const CombineBackwardArgs& args) {
  const int64_t n = args.slots.shape[0], k = args.slots.shape[1], hidden = args.slots.shape[2];
  for (int64_t t = 0; t < n; ++t) {
    const float* dy = args.dy.f32() + t * args.dy.stride[0];
    for (int64_t s = 0; s < k; ++s) {
      const bool skipped = args.ids.i32()[t * args.ids.stride[0] + s] < 0;
      const float* slot = args.slots.f32() + t * args.slots.stride[0] + s * args.slots.stride[1];
      double along = 0;
      for (int64_t i = 0; i < hidden && !skipped; ++i) along += static_cast<double>(slot[i]) * dy[i];
      if (!args.dweights.empty())
        args.dweights.f32()[t * args.dweights.stride[0] + s] = static_cast<float>(along);
      if (skipped || args.dslots.empty()) continue;
      const float weight = args.weights.f32()[t * args.weights.stride[0] + s];
      float* dslot = args.dslots.f32() + t * args.dslots.stride[0] + s * args.dslots.stride[1];
      for (int64_t i = 0; i < hidden; ++i) dslot[i] = weight * dy[i];
    }
  }
}

}  // namespace moebius::ref
