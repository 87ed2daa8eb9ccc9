#include "kernels/cuda/swiglu_slope.h"

#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

struct SwigluGradient {
  const float *gate, *up, *dy;
  float *dgate, *dup;  // or null; each may be an input
  int64_t gate_stride, up_stride, dy_stride, dgate_stride, dup_stride;

  template <int N>
  __device__ void operator()(int64_t t, int64_t column) const {
    const Floats<N> g = load<N>(gate + t * gate_stride + column), u = load<N>(up + t * up_stride + column);
    const Floats<N> d = load<N>(dy + t * dy_stride + column);
    Floats<N> of_gate, of_up;
    for (int i = 0; i < N; ++i) {
      const SwigluSlope slope = swiglu_slope(g.at[i], u.at[i]);
      of_gate.at[i] = d.at[i] * slope.gate, of_up.at[i] = d.at[i] * slope.up;
    }
    if (dgate) store(dgate + t * dgate_stride + column, of_gate);
    if (dup) store(dup + t * dup_stride + column, of_up);
  }
};

bool wide_or_empty(const Tensor& t) { return t.empty() || aligned_rows(t); }

}  // namespace

// Reads gate, up and dy once and writes dgate and dup once: 20 bytes a number.
void swiglu_backward(Context& context, const SwigluBackwardArgs& args) {
  if (args.dgate.empty() && args.dup.empty()) return;
  const SwigluGradient op{args.gate.f32(),
                          args.up.f32(),
                          args.dy.f32(),
                          args.dgate.empty() ? nullptr : args.dgate.f32(),
                          args.dup.empty() ? nullptr : args.dup.f32(),
                          args.gate.stride[0],
                          args.up.stride[0],
                          args.dy.stride[0],
                          args.dgate.stride[0],
                          args.dup.stride[0]};
  const bool wide = aligned_rows(args.gate) && aligned_rows(args.up) && aligned_rows(args.dy) &&
                    wide_or_empty(args.dgate) && wide_or_empty(args.dup);
  for_each_column(context, args.gate.shape[0], args.gate.shape[1], wide, op);
}

}  // namespace moebius::cuda
