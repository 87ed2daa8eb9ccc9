// AVX-512 VNNI row kernel of int4.
#include "kernels/cpu/rows_int_formats_avx512.h"

namespace moebius {
namespace {

inline __m128i load_words(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }

// Sixteen columns from two words, by looking up each code among the sixteen values of its group.
template <int kFirst>
inline __m512 look_up(__m512i words, __m512 values) {
  constexpr int a = kFirst, b = kFirst + 1;
  const __m512i pair = _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b),
                shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_permutexvar_epi32(pair, words), shifts), values);
}

}  // namespace

void dequantize_rows_int4_avx512(const Matrix& matrix, int64_t begin, int64_t end, float* out, int64_t ld) {
  const Rows w(matrix);
  const __m512 steps = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  for (int64_t r = begin; r < end; ++r, out += ld) {
    const uint8_t* row = w.row(r);
    for (int64_t c0 = 0, g = 0; c0 < w.cols; c0 += w.group, ++g) {
      const int64_t last = c0 + w.group < w.cols ? c0 + w.group : w.cols;
      const __m512 values = _mm512_mul_ps(steps, _mm512_set1_ps(scale_at(w, r * w.per_row + g)));
      int64_t c = c0;
      for (; c + 32 <= last; c += 32) {
        const __m512i words = _mm512_castsi128_si512(load_words(row + c / 2));
        _mm512_storeu_ps(out + c, look_up<0>(words, values));
        _mm512_storeu_ps(out + c + 16, look_up<2>(words, values));
      }
      if (c == last) continue;
      const int64_t count = last - c;
      const auto bytes = static_cast<__mmask16>((1u << (count + 7) / 8 * 4) - 1);  // whole words are there
      const __m512i words = _mm512_castsi128_si512(_mm_maskz_loadu_epi8(bytes, row + c / 2));
      const uint32_t columns = (1u << count) - 1;
      _mm512_mask_storeu_ps(out + c, static_cast<__mmask16>(columns), look_up<0>(words, values));
      _mm512_mask_storeu_ps(out + c + 16, static_cast<__mmask16>(columns >> 16), look_up<2>(words, values));
    }
  }
}

void dot_rows_int4_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide_int4(w, begin, end, x, tokens, n, y, ldy);
}

}  // namespace moebius
