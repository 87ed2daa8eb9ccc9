// AVX-512 VNNI row kernel of int8.
#include "kernels/cpu/rows_int_formats_avx512.h"

namespace moebius {

void dot_rows_int8_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int8>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int8_avx2, dot_rows_int8_exact_avx512);
}

}  // namespace moebius
