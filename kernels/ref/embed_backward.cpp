#include "kernels/grad_ops.h"

namespace moebius::ref {

void embed_backward(const EmbedBackwardArgs& args) {
  for (int64_t i = 0; i < args.ids.shape[0]; ++i) {
    const float* dy = args.dy.f32() + i * args.dy.stride[0];
    float* row = args.dtable.f32() + args.ids.i32()[i * args.ids.stride[0]] * args.dtable.stride[0];
    for (int64_t c = 0; c < args.dy.shape[1]; ++c) row[c] += dy[c];
  }
}

}  // namespace moebius::ref
