// AVX-512 VNNI row kernel of int4.
#include "kernels/cpu/rows_int_avx512.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int4 {
  static constexpr int64_t kUnitGroups = 4, kUnitBytes = 128, kGroupBytes = 16;
  static constexpr int32_t kDotOffset = 8;
  static constexpr bool kOneToken = true;

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(arranged), even_then_odd(q));
  }

  // Even columns of four groups, then odd ones.
  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    for (int g = 0; g < 4; ++g) {
      const __m256i group = even_then_odd(q + g * kActivationGroup);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(arranged + 16 * g), _mm256_castsi256_si128(group));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(arranged + 64 + 16 * g),
                       _mm256_extracti128_si256(group, 1));
    }
  }

  static inline __m512i row_sums(const uint8_t* row, const int8_t* arranged, const int32_t* start) {
    const __m512i low = _mm512_set1_epi8(15), codes = load_wide(row);
    const __m512i even =
        _mm512_dpbusd_epi32(load_wide(start), _mm512_and_si512(codes, low), load_wide(arranged));
    return _mm512_dpbusd_epi32(even, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low),
                               load_wide(arranged + 64));
  }

  // Each quarter of low and high is a group.
  static inline void join(__m512i low, __m512i high, __m512i* sums) {
    sums[0] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
    sums[1] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
  }

  static inline void unpack(const __m512i* words, __m512i* codes) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      codes[j] = _mm512_and_si512(words[j], low);
      codes[4 + j] = _mm512_and_si512(_mm512_srli_epi32(words[j], 4), low);
    }
  }
};

}  // namespace

void dot_rows_int4_avx512(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int4>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int4_avx2, dot_rows_int4_exact_avx512);
}

}  // namespace moebius
