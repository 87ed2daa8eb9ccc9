// AVX2 row kernels of int4: codes stay unsigned (0 .. 15), and 8 * sum(q) is taken off at the end of a group.
#include "kernels/cpu/rows_int_avx2.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int4 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 4, kScaleRows = 1, kGroupBytes = 16;
  static constexpr float kFactor = 1;

  static inline __m256 load(const uint8_t* row, int64_t c) {
    int32_t word;
    std::memcpy(&word, row + c / 2, 4);
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i codes =
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(8)));
  }

  struct Unpacked {
    __m256i even[4], odd[4];  // columns
  };

  static inline Unpacked unpack(const uint8_t* const* rows, int64_t offset) {
    __m256i words[4];
    gather_words(rows, offset, words);
    Unpacked w;
    const __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      w.even[j] = _mm256_and_si256(words[j], low);
      w.odd[j] = _mm256_and_si256(_mm256_srli_epi32(words[j], 4), low);
    }
    return w;
  }

  // Even columns first, then odd ones.
  static inline void arrange(const int8_t* q, int8_t* arranged) {
    const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6,
                                           8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(arranged),
                        _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, order), 0xd8));
  }

  // Sixteen-bit sums hold: 8 pairs of at most 2 * 15 * 127 make 30480.
  static inline __m256i dot(const Unpacked& w, const int8_t* arranged, int32_t sum) {
    __m256i pairs = _mm256_setzero_si256();
    for (int j = 0; j < 4; ++j) {
      const __m256i even = _mm256_maddubs_epi16(w.even[j], four_activations(arranged + 4 * j));
      const __m256i odd = _mm256_maddubs_epi16(w.odd[j], four_activations(arranged + 16 + 4 * j));
      pairs = _mm256_add_epi16(pairs, _mm256_add_epi16(even, odd));
    }
    const __m256i s = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    return _mm256_sub_epi32(s, _mm256_set1_epi32(8 * sum));
  }
};

}  // namespace

void dot_rows_int4_avx2(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                        const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_int<Int4>(w, begin, end, x, tokens, n, y, ldy);
}

void axpy_rows_int4_avx2(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) {
  axpy_rows<Int4>(w, begin, end, coefficient, y);
}

void dequantize_rows_int4_avx2(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld) {
  dequantize_rows<Int4>(w, begin, end, out, ld);
}

}  // namespace moebius
