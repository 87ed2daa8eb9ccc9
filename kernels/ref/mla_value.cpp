#include "kernels/ops.h"
#include "kernels/ref/rounded.h"

namespace moebius {

void ref::mla_value(const MlaValueArgs& args, bool) {
  for (int64_t t = 0; t < args.o.shape[0]; ++t) {
    for (int64_t h = 0; h < args.o.shape[1]; ++h) {
      const int64_t first = h * (args.nope + args.v_dim) + args.nope;
      Activations o;
      o.x = args.o.f32() + t * args.o.stride[0] + h * args.o.stride[1];
      o.cols = o.ld = args.kv_b.cols;
      float* out = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
      reference_kernels(args.kv_b.format)
          .dot_rows(args.kv_b, first, first + args.v_dim, o, nullptr, 1, out, args.v_dim);
    }
  }
}

}  // namespace moebius
