#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const float *x, *weight;
  float* y;
  int64_t x_stride, y_stride, d;
  float eps;
};

// A block to a row, N numbers to a thread at a time.
template <int N>
__global__ void rms_norm_f32(Rows rows) {
  MOEBIUS_SHARED(float, partial, kWarp);
  const float* x = rows.x + block_x() * rows.x_stride;
  float* y = rows.y + block_x() * rows.y_stride;
  float squares = 0;
  for (int64_t i = N * thread(); i < rows.d; i += N * kThreads) {
    const Floats<N> v = load<N>(x + i);
    for (int k = 0; k < N; ++k) squares = fmaf(v.at[k], v.at[k], squares);
  }
  squares = block_sum(squares, partial);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(rows.d) + rows.eps);
  for (int64_t i = N * thread(); i < rows.d; i += N * kThreads) {
    Floats<N> v = load<N>(x + i);
    const Floats<N> w = load<N>(rows.weight + i);
    for (int k = 0; k < N; ++k) v.at[k] = v.at[k] * factor * w.at[k];
    store(y + i, v);
  }
}

}  // namespace

// Reads x from memory once, and again from the cache, where a row of a few tens of KiB still is; writes y: 8
// bytes a number. The weights come from the cache for all rows but the first.
void rms_norm(Context& context, const RmsNormArgs& args) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  if (n == 0 || d == 0) return;
  const Rows rows{args.x.f32(), args.weight.f32(), args.y.f32(), args.x.stride[0], args.y.stride[0], d,
                  args.eps};
  const bool wide = d % 4 == 0 && aligned_rows(args.x) && aligned_rows(args.y) && aligned16(rows.weight);
  launch(context.compute(), wide ? rms_norm_f32<4> : rms_norm_f32<1>, Grid{n}, kThreads, 0, rows);
}

}  // namespace moebius::cuda
