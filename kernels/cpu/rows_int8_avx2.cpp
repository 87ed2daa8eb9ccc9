// AVX2 row kernels of int8: |w| times q with the sign of w, so that a pair of products (at most 2 * 128 *
// 127) fits sixteen bits.
#include "kernels/cpu/rows_int_avx2.h"
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

  static inline Unpacked unpack(const uint8_t* const* rows, int64_t offset) {
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

  static inline __m256i dot(const Unpacked& w, const int8_t* arranged, int32_t) {
    __m256i s = _mm256_setzero_si256();
    for (int j = 0; j < 8; ++j) {
      const __m256i q = _mm256_sign_epi8(four_activations(arranged + 4 * j), w.code[j]);
      const __m256i pairs = _mm256_maddubs_epi16(w.magnitude[j], q);
      s = _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return s;
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
