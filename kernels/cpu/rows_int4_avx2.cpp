// AVX2 row kernels of int4: codes stay unsigned (0 .. 15), and 8 * sum(q) is taken off at the end of a group.
#include "kernels/cpu/rows_int_dots_avx2.h"
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

  static inline Unpacked unpack(const EightRows& rows, int64_t offset) {
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

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(arranged), even_then_odd(q));
  }

  // Sixteen-bit sums hold, here and below: 8 pairs of at most 2 * 15 * 127 make 30480.
  static inline __m256i dot(const Unpacked& w, const int8_t* arranged) {
    __m256i pairs[2];
    for (int j = 0; j < 4; ++j) {
      const __m256i even = _mm256_maddubs_epi16(w.even[j], four_activations(arranged + 4 * j));
      const __m256i odd = _mm256_maddubs_epi16(w.odd[j], four_activations(arranged + 16 + 4 * j));
      pairs[0] = j == 0 ? even : _mm256_add_epi16(pairs[0], even);
      pairs[1] = j == 0 ? odd : _mm256_add_epi16(pairs[1], odd);
    }
    return _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), _mm256_set1_epi16(1));
  }

  static constexpr int64_t kUnitGroups = 2;
  static constexpr int32_t kOffset = 8, kDotOffset = 8;

  // Even columns of both groups, then odd ones.
  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    const __m256i first = even_then_odd(q), second = even_then_odd(q + 32);
    __m256i* to = reinterpret_cast<__m256i*>(arranged);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(first, second, 0x31));
  }

  // The low half of the result is of the first group, as is the high half of the second.
  static inline __m256i row_pairs(const uint8_t* row, __m256i even, __m256i odd) {
    const __m256i low = _mm256_set1_epi8(15), codes = load_bytes(row);
    return _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(codes, low), even),
                            _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(codes, 4), low), odd));
  }

  // Four rows: lane i of each half is row i.
  static inline __m256i four_rows(const uint8_t* rows, int64_t stride, __m256i even, __m256i odd) {
    const __m256i a = row_pairs(rows, even, odd), b = row_pairs(rows + stride, even, odd);
    const __m256i c = row_pairs(rows + 2 * stride, even, odd), d = row_pairs(rows + 3 * stride, even, odd);
    const __m256i ab = _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    const __m256i cd = _mm256_add_epi16(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    const __m256 left = _mm256_castsi256_ps(ab), right = _mm256_castsi256_ps(cd);
    const __m256i pairs = _mm256_add_epi16(_mm256_castps_si256(_mm256_shuffle_ps(left, right, 0x88)),
                                           _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0xdd)));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }

  static inline void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* arranged, __m256i* sums) {
    const __m256i even = load_bytes(arranged), odd = load_bytes(arranged + 32);
    const __m256i low = four_rows(rows, stride, even, odd),
                  high = four_rows(rows + 4 * stride, stride, even, odd);
    sums[0] = _mm256_permute2x128_si256(low, high, 0x20);
    sums[1] = _mm256_permute2x128_si256(low, high, 0x31);
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
