// AVX-512 VNNI row kernel of int8, for several tokens.
#include "kernels/cpu/rows_int_avx512.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int8 {
  static constexpr int64_t kGroupBytes = 32;
  static constexpr bool kOneToken = false;  // the AVX2 kernel reads from memory a quarter faster
  static constexpr int32_t kDotOffset = 128;

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }
  static inline void unpack(const __m512i* words, __m512i* codes) {
    for (int j = 0; j < 8; ++j) codes[j] = words[j];
  }
};

}  // namespace

void dot_rows_int8_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int8>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int8_avx2, dot_rows_int8_exact_avx512);
}

}  // namespace moebius
