// AVX2 row kernels of int8.
#include "kernels/cpu/rows_int_dots_avx2.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int8 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 8, kScaleRows = 1, kGroupBytes = 32;
  static constexpr float kFactor = 1;

  static inline __m256 load(const uint8_t* row, int64_t c) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + c));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(128)));
  }

  struct Unpacked {
    __m256i code[8], magnitude[8];
  };

  static inline Unpacked unpack(const EightRows& rows, int64_t offset) {
    Unpacked w;
    gather_words(rows, offset, w.code);
    gather_words(rows, offset + 16, w.code + 4);
    for (int j = 0; j < 8; ++j) {
      w.code[j] = _mm256_xor_si256(w.code[j], _mm256_set1_epi8(static_cast<char>(0x80)));
      w.magnitude[j] = _mm256_abs_epi8(w.code[j]);  // 128 as an unsigned byte
    }
    return w;
  }

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }

  // |w| times q with the sign of w: a pair of products, at most 2 * 128 * 127, fits sixteen bits.
  static inline __m256i dot(const Unpacked& w, const int8_t* arranged) {
    __m256i s[2];
    for (int j = 0; j < 8; ++j) {
      const __m256i q = _mm256_sign_epi8(four_activations(arranged + 4 * j), w.code[j]);
      const __m256i pairs = _mm256_maddubs_epi16(w.magnitude[j], q);
      const __m256i products = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
      s[j % 2] = j < 2 ? products : _mm256_add_epi32(s[j % 2], products);
    }
    return _mm256_add_epi32(s[0], s[1]);
  }

  static constexpr int64_t kUnitGroups = 1;
  static constexpr int32_t kOffset = 128, kDotOffset = 0;

  // As 16-bit numbers, even columns, then odd ones.
  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    const __m256i bytes = load_bytes(q);
    __m256i* to = reinterpret_cast<__m256i*>(arranged);
    _mm256_storeu_si256(to, _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8));
    _mm256_storeu_si256(to + 1, _mm256_srai_epi16(bytes, 8));
  }

  // Codes stay unsigned and become 16 bits wide.
  static inline __m256i row_sums(const uint8_t* row, __m256i even, __m256i odd) {
    const __m256i codes = load_bytes(row);
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(255)), even),
                            _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), odd));
  }

  static inline __m256i two_rows(const uint8_t* rows, int64_t stride, __m256i even, __m256i odd) {
    const __m256i a = row_sums(rows, even, odd), b = row_sums(rows + stride, even, odd);
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  }

  // Four rows: lane i of each half is a half of row i's sum.
  static inline __m256i four_rows(const uint8_t* rows, int64_t stride, __m256i even, __m256i odd) {
    const __m256i ab = two_rows(rows, stride, even, odd), cd = two_rows(rows + 2 * stride, stride, even, odd);
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }

  static inline void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* arranged, __m256i* sums) {
    const __m256i even = load_bytes(arranged), odd = load_bytes(arranged + 32);
    const __m256i low = four_rows(rows, stride, even, odd),
                  high = four_rows(rows + 4 * stride, stride, even, odd);
    sums[0] = _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                               _mm256_permute2x128_si256(low, high, 0x31));
  }
};

}  // namespace

void dot_rows_int8_avx2(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                        const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_int<Int8>(w, begin, end, x, tokens, n, y, ldy);
}

void axpy_rows_int8_avx2(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) {
  axpy_rows<Int8>(w, begin, end, coefficient, y);
}

void dequantize_rows_int8_avx2(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld) {
  dequantize_rows<Int8>(w, begin, end, out, ld);
}

}  // namespace moebius
