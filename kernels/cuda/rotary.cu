#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

struct Rotary {
  float* x;
  const float *cos, *sin;
  int64_t heads, half, token_stride, head_stride, cos_stride, sin_stride;
  bool interleaved;

  // N pairs from `pair` on of row = token * heads + head.
  template <int N>
  __device__ void operator()(int64_t row, int64_t pair) const {
    const int64_t t = row / heads;
    float* head = x + t * token_stride + row % heads * head_stride;
    const Floats<N> c = load<N>(cos + t * cos_stride + pair), s = load<N>(sin + t * sin_stride + pair);
    float* low = head + (interleaved ? 2 * pair : pair);
    float* high = interleaved ? low + N : head + half + pair;
    Floats<N> v[2] = {load<N>(low), load<N>(high)};
    for (int i = 0; i < N; ++i) {
      float& a = interleaved ? v[2 * i / N].at[2 * i % N] : v[0].at[i];
      float& b = interleaved ? v[(2 * i + 1) / N].at[(2 * i + 1) % N] : v[1].at[i];
      const float first = a * c.at[i] - b * s.at[i], second = b * c.at[i] + a * s.at[i];
      a = first, b = second;
    }
    store(low, v[0]), store(high, v[1]);
  }
};

}  // namespace

// Reads and writes the rotated numbers once: 16 bytes a pair. Angles, the same for all heads of a token, come
// from the cache.
void rotary(Context& context, const RotaryArgs& args) {
  const Tensor& x = args.x;
  const Rotary op{x.f32(),     args.cos.f32(), args.sin.f32(),     x.shape[1],         args.cos.shape[1],
                  x.stride[0], x.stride[1],    args.cos.stride[0], args.sin.stride[0], args.interleaved};
  for_each_column(context, x.shape[0] * x.shape[1], op.half,
                  aligned_rows(x) && aligned_rows(args.cos) && aligned_rows(args.sin), op);
}

}  // namespace moebius::cuda
