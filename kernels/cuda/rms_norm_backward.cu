#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const float *x, *weight, *dy;
  float* dx;       // or null
  float* factors;  // [n]: 1 / the norm of each row, or null
  int64_t x_stride, dy_stride, dx_stride, d;
  float eps;
};

// A block to a row, N numbers to a thread at a time.
template <int N>
__global__ void rms_norm_gradient(Rows rows) {
  MOEBIUS_SHARED(float, partial, kWarp);
  const float* x = rows.x + block_x() * rows.x_stride;
  const float* dy = rows.dy + block_x() * rows.dy_stride;
  float squares = 0, along = 0;  // along: how far the gradient points along x
  for (int64_t i = N * thread(); i < rows.d; i += N * kThreads) {
    const Floats<N> v = load<N>(x + i), g = load<N>(dy + i), w = load<N>(rows.weight + i);
    for (int k = 0; k < N; ++k) {
      squares = fmaf(v.at[k], v.at[k], squares);
      along = fmaf(g.at[k] * w.at[k], v.at[k], along);
    }
  }
  squares = block_sum(squares, partial);
  along = block_sum(along, partial);
  const float d = static_cast<float>(rows.d), factor = 1.0f / sqrtf(squares / d + rows.eps);
  if (rows.factors && thread() == 0) rows.factors[block_x()] = factor;
  if (!rows.dx) return;
  float* dx = rows.dx + block_x() * rows.dx_stride;
  const float pull = along / d * factor * factor;
  for (int64_t i = N * thread(); i < rows.d; i += N * kThreads) {
    const Floats<N> v = load<N>(x + i), g = load<N>(dy + i), w = load<N>(rows.weight + i);
    Floats<N> out = load<N>(dx + i);
    for (int k = 0; k < N; ++k) out.at[k] = fmaf(factor, g.at[k] * w.at[k] - v.at[k] * pull, out.at[k]);
    store(dx + i, out);
  }
}

struct WeightTerm {
  const float *x, *dy, *factors;
  int64_t x_stride, dy_stride;
  __device__ float operator()(int64_t t, int64_t c) const {
    return dy[t * dy_stride + c] * (x[t * x_stride + c] * factors[t]);
  }
};

}  // namespace

// Reads x, dy and dx from memory once and writes dx: 16 bytes a number; the second pass over a row comes from
// the cache. dweight reads x and dy once more.
void rms_norm_backward(Context& context, const RmsNormBackwardArgs& args) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  if (n == 0 || d == 0) return;
  Rows rows{args.x.f32(),     args.weight.f32(), args.dy.f32(),     nullptr, nullptr,
            args.x.stride[0], args.dy.stride[0], args.dx.stride[0], d,       args.eps};
  if (!args.dx.empty()) rows.dx = args.dx.f32();
  if (!args.dweight.empty()) {
    rows.factors = static_cast<float*>(context.scratch(n * static_cast<int64_t>(sizeof(float))));
    if (!rows.factors) return;
  }
  const bool wide = d % 4 == 0 && aligned_rows(args.x) && aligned_rows(args.dy) && aligned16(rows.weight) &&
                    (!rows.dx || aligned_rows(args.dx));
  launch(context.compute(), wide ? rms_norm_gradient<4> : rms_norm_gradient<1>, Grid{n}, kThreads, 0, rows);
  if (rows.factors)
    add_column_sums(context, n, d, WeightTerm{rows.x, rows.dy, rows.factors, rows.x_stride, rows.dy_stride},
                    args.dweight.f32());
}

}  // namespace moebius::cuda
