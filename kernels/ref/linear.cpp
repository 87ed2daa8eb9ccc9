#include <vector>

#include "kernels/ops.h"
#include "kernels/ref/rounded.h"

namespace moebius {

void ref::linear(const LinearArgs& args, bool exact_activations) {
  const Matrix& w = args.w;
  const int64_t n = args.x.shape[0];
  Rounded x(args.x.f32(), n, w.cols, args.x.stride[0]);
  std::vector<float> product(static_cast<size_t>(n * w.rows));
  reference_kernels(w.format).dot_rows(w, 0, w.rows, x.for_matrix(w, exact_activations), nullptr, n,
                                       product.data(), w.rows);
  for (int64_t i = 0; i < n; ++i) {
    float* y = args.y.f32() + i * args.y.stride[0];
    for (int64_t r = 0; r < w.rows; ++r) {
      float value = product[static_cast<size_t>(i * w.rows + r)];
      if (!args.bias.empty()) value += args.bias.f32()[r];
      y[r] = args.accumulate ? y[r] + value : value;
    }
  }
}

}  // namespace moebius
