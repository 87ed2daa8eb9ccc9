#include "kernels/grad_ops.h"
#include "kernels/ref/rounded.h"

namespace moebius::ref {

void linear_backward(const LinearBackwardArgs& args) {
  const int64_t n = args.dy.shape[0], rows = args.dy.shape[1];
  const auto dy = [&](int64_t i, int64_t r) {
    return static_cast<double>(args.dy.f32()[i * args.dy.stride[0] + r]);
  };
  if (!args.dx.empty()) {
    for (int64_t i = 0; i < n; ++i)
      reference_kernels(args.w.format)
          .axpy_rows(args.w, 0, rows, args.dy.f32() + i * args.dy.stride[0],
                     args.dx.f32() + i * args.dx.stride[0]);
  }
  for (int64_t r = 0; r < rows && !args.dw.empty(); ++r) {
    float* dw = args.dw.f32() + r * args.dw.stride[0];
    for (int64_t c = 0; c < args.dw.shape[1]; ++c) {
      double sum = dw[c];
      for (int64_t i = 0; i < n; ++i) sum += dy(i, r) * args.x.f32()[i * args.x.stride[0] + c];
      dw[c] = static_cast<float>(sum);
    }
  }
  for (int64_t r = 0; r < rows && !args.dbias.empty(); ++r) {
    double sum = args.dbias.f32()[r];
    for (int64_t i = 0; i < n; ++i) sum += dy(i, r);
    args.dbias.f32()[r] = static_cast<float>(sum);
  }
}

}  // namespace moebius::ref
