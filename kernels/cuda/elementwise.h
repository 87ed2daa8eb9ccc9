// Operations on rows of float32 that treat each column alone: a thread to four columns, 16 bytes an access,
// where rows are aligned to 16 bytes, and to one column otherwise.
#pragma once

#include "kernels/cuda/context.h"

namespace moebius::cuda {

template <int N>
struct alignas(N * sizeof(float)) Floats {  // N: 1 or 4
  float at[N];
};
// From an address that is a multiple of 4 N.
template <int N>
__device__ Floats<N> load(const float* at) {
  return *static_cast<const Floats<N>*>(static_cast<const void*>(at));
}
template <int N>
__device__ void store(float* at, const Floats<N>& floats) {
  *static_cast<Floats<N>*>(static_cast<void*>(at)) = floats;
}

// Every row of a tensor [n, d] or [n, heads, d] starts at a multiple of 16 bytes.
inline bool aligned_rows(const Tensor& t) {
  return aligned16(t.data) && t.stride[0] % 4 == 0 && (t.ndim < 3 || t.stride[1] % 4 == 0);
}

inline constexpr int kColumnThreads = 256;

// op.operator()<N>(row, column) takes N columns from `column` on.
template <int N, class Op>
__global__ void columns_f32(const __grid_constant__ Op op, int64_t pieces, int64_t d) {
  const int64_t row = block_x() / pieces;
  const int64_t column = (block_x() % pieces * kColumnThreads + thread()) * N;
  if (column < d) op.template operator()<N>(row, column);
}
// wide: columns may be taken by fours where d is a multiple of four.
template <class Op>
void for_each_column(Context& context, int64_t n, int64_t d, bool wide, const Op& op) {
  if (n == 0 || d == 0) return;
  wide = wide && d % 4 == 0;
  const int64_t pieces = blocks_for(d, kColumnThreads * (wide ? 4 : 1));
  launch(context.compute(), wide ? columns_f32<4, Op> : columns_f32<1, Op>, Grid{n * pieces}, kColumnThreads,
         0, op, pieces, d);
}

}  // namespace moebius::cuda
