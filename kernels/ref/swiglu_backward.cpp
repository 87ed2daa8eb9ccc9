#include "kernels/ref/swiglu_backward.h"

#include "kernels/grad_ops.h"

namespace moebius::ref {

void swiglu_backward(const SwigluBackwardArgs& args) {
  const auto at = [](const Tensor& t, int64_t row) { return t.f32() + row * t.stride[0]; };
  for (int64_t t = 0; t < args.gate.shape[0]; ++t) {
    for (int64_t i = 0; i < args.gate.shape[1]; ++i) {
      const SwigluSlope slope = swiglu_slope(at(args.gate, t)[i], at(args.up, t)[i]);
      const double dy = at(args.dy, t)[i];  // read before either result is written: they may be inputs
      if (!args.dgate.empty()) at(args.dgate, t)[i] = static_cast<float>(dy * slope.gate);
      if (!args.dup.empty()) at(args.dup, t)[i] = static_cast<float>(dy * slope.up);
    }
  }
}

}  // namespace moebius::ref
