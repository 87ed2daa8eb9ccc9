#include <cmath>
#include <vector>

#include "kernels/grad_ops.h"

namespace moebius::ref {

void rms_norm_backward(const RmsNormBackwardArgs& args) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  const float* weight = args.weight.f32();
  std::vector<double> dweight(static_cast<size_t>(d));
  for (int64_t t = 0; t < n; ++t) {
    const float* x = args.x.f32() + t * args.x.stride[0];
    const float* dy = args.dy.f32() + t * args.dy.stride[0];
    double squares = 0, along = 0;  // along: how far the gradient points along x
    for (int64_t i = 0; i < d; ++i) {
      squares += static_cast<double>(x[i]) * x[i];
      along += static_cast<double>(dy[i]) * weight[i] * x[i];
    }
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(d) + args.eps);
    const double pull = along / static_cast<double>(d) * factor * factor * factor;
    for (int64_t i = 0; i < d; ++i) dweight[i] += dy[i] * (x[i] * factor);
    if (args.dx.empty()) continue;
    float* dx = args.dx.f32() + t * args.dx.stride[0];
    for (int64_t i = 0; i < d; ++i)
      dx[i] = static_cast<float>(dx[i] + static_cast<double>(dy[i]) * weight[i] * factor - x[i] * pull);
  }
  if (args.dweight.empty()) return;
  for (int64_t i = 0; i < d; ++i)
    args.dweight.f32()[i] = static_cast<float>(args.dweight.f32()[i] + dweight[i]);
}

}  // namespace moebius::ref
