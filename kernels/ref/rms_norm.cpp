#include <cmath>

#include "kernels/ops.h"

namespace moebius::ref {

void rms_norm(const RmsNormArgs& args, bool) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  const float* weight = args.weight.f32();
  for (int64_t t = 0; t < n; ++t) {
    const float* x = args.x.f32() + t * args.x.stride[0];
    float* y = args.y.f32() + t * args.y.stride[0];
    double squares = 0;
    for (int64_t i = 0; i < d; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(d) + args.eps);
    for (int64_t i = 0; i < d; ++i) y[i] = static_cast<float>(x[i] * factor * weight[i]);
  }
}

}  // namespace moebius::ref
