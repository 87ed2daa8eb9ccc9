#include <algorithm>

#include "kernels/ops.h"
#include "kernels/ref/rounded.h"

namespace moebius {

void ref::mla_absorb(const MlaAbsorbArgs& args, bool) {
  for (int64_t t = 0; t < args.q.shape[0]; ++t) {
    for (int64_t h = 0; h < args.q.shape[1]; ++h) {
      const int64_t first = h * (args.nope + args.v_dim);
      float* y = args.y.f32() + t * args.y.stride[0] + h * args.y.stride[1];
      std::fill(y, y + args.kv_b.cols, 0.0f);
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      reference_kernels(args.kv_b.format).axpy_rows(args.kv_b, first, first + args.nope, q, y);
      std::copy(q + args.nope, q + args.q.shape[2], y + args.kv_b.cols);
    }
  }
}

}  // namespace moebius
