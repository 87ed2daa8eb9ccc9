// FormatKernels::dot_rows of int4 and int8 with AVX2, whichever number of tokens. Only *_avx2.cpp files
// include this; see rows_avx2.h.
#pragma once

#include "kernels/cpu/rows_int_batch_avx2.h"
#include "kernels/cpu/rows_int_token_avx2.h"

namespace moebius {
namespace {

template <class F>
static void dot_rows_int(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  if (!x.q || matrix.cols == 0) return dot_rows<F>(matrix, begin, end, x, tokens, n, y, ldy);
  const Rows w(matrix);
  using Dot =
      void (*)(const Rows&, int64_t, int64_t, const Activations&, const int32_t*, int64_t, float*, int64_t);
  static constexpr Dot kDots[] = {nullptr,         nullptr,         dot_batch<F, 2>,
                                  dot_batch<F, 3>, dot_batch<F, 4>, dot_batch<F, 5>,
                                  dot_batch<F, 6>, dot_batch<F, 7>, dot_batch<F, 8>};
  for (int64_t i = 0; i < n; i += kTokens) {
    const int64_t count = n - i < kTokens ? n - i : kTokens;
    if (count == 1)
      dot_token<F>(w, begin, end, x, tokens ? tokens[i] : i, y + i * ldy);
    else
      kDots[count](w, begin, end, x, tokens, i, y, ldy);
  }
}

}  // namespace
}  // namespace moebius
