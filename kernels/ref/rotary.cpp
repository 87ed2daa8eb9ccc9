#include "kernels/ops.h"

namespace moebius::ref {

void rotary(const RotaryArgs& args, bool) {
  const Tensor& x = args.x;
  const int64_t half = args.cos.shape[1];
  for (int64_t t = 0; t < x.shape[0]; ++t) {
    const float* cos = args.cos.f32() + t * args.cos.stride[0];
    const float* sin = args.sin.f32() + t * args.sin.stride[0];
    for (int64_t h = 0; h < x.shape[1]; ++h) {
      float* head = x.f32() + t * x.stride[0] + h * x.stride[1];
      for (int64_t i = 0; i < half; ++i) {
        float& a = args.interleaved ? head[2 * i] : head[i];
        float& b = args.interleaved ? head[2 * i + 1] : head[i + half];
        const float first = a * cos[i] - b * sin[i], second = b * cos[i] + a * sin[i];
        a = first, b = second;
      }
    }
  }
}

}  // namespace moebius::ref
