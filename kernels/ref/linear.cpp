#include <vector>

#include "kernels/ops.h"
#include "kernels/ref/adapted.h"

namespace moebius {

void ref::linear(const LinearArgs& args, bool exact_activations) {
  const Matrix& w = args.w;
  std::vector<float> values(static_cast<size_t>(w.rows));
  for (int64_t i = 0; i < args.x.shape[0]; ++i) {
    Rounded x(args.x.f32() + i * args.x.stride[0], 1, w.cols, w.cols);
    product(w, x.for_matrix(w, exact_activations), values.data());
    float* y = args.y.f32() + i * args.y.stride[0];
    for (int64_t r = 0; r < w.rows; ++r) {
      float value = values[static_cast<size_t>(r)];
      if (!args.bias.empty()) value += args.bias.f32()[r];
      y[r] = args.accumulate ? y[r] + value : value;
    }
  }
}

void ref::add_adapter(const AddAdapterArgs& args, bool) {
  for (int64_t i = 0; i < args.x.shape[0]; ++i)
    add_adapter(args.lora, args.x.f32() + i * args.x.stride[0], args.y.f32() + i * args.y.stride[0]);
}

}  // namespace moebius
