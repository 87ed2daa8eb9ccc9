// AVX2 row kernels of the float formats: a load that converts eight numbers is all that sets them apart.
#include "kernels/cpu/rows_avx2.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

static inline __m128i load_16_bytes(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

struct F32 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 32, kScaleRows = 1;
  static constexpr float kFactor = 1;
  static inline __m256 load(const uint8_t* row, int64_t c) {
    return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + c * 4)));
  }
};

struct Bf16 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 16, kScaleRows = 1;
  static constexpr float kFactor = 1;
  static inline __m256 load(const uint8_t* row, int64_t c) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_bytes(row + c * 2)), 16));
  }
};

struct F16 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 16, kScaleRows = 1;
  static constexpr float kFactor = 1;
  static inline __m256 load(const uint8_t* row, int64_t c) {
    return _mm256_cvtph_ps(load_16_bytes(row + c * 2));
  }
};

// E4M3: sign and magnitude moved to where a half has them give the value times 2^-8 exactly.
struct Fp8 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 8, kScaleRows = kFp8Block;
  static constexpr float kFactor = 256;
  static inline __m256 load(const uint8_t* row, int64_t c) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + c));
    const __m128i moved = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);  // bit 14 is a second sign
    return _mm256_cvtph_ps(_mm_and_si128(moved, _mm_set1_epi16(static_cast<short>(0xbfff))));
  }
  static inline void load_sixteen(const uint8_t* row, int64_t c, __m256& low, __m256& high) {
    const __m256i moved = _mm256_slli_epi16(_mm256_cvtepi8_epi16(load_16_bytes(row + c)), 7);
    const __m256i halves = _mm256_and_si256(moved, _mm256_set1_epi16(static_cast<short>(0xbfff)));
    low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
  }
};

}  // namespace

#define MOEBIUS_ROW_KERNELS_AVX2(suffix, F)                                                                  \
  void dot_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const Activations& x,                  \
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {                          \
    dot_rows<F>(w, begin, end, x, tokens, n, y, ldy);                                                        \
  }                                                                                                          \
  void axpy_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) { \
    axpy_rows<F>(w, begin, end, coefficient, y);                                                             \
  }                                                                                                          \
  void dequantize_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, float* out, int64_t ld) {       \
    dequantize_rows<F>(w, begin, end, out, ld);                                                              \
  }

MOEBIUS_ROW_KERNELS_AVX2(f32_avx2, F32)
MOEBIUS_ROW_KERNELS_AVX2(bf16_avx2, Bf16)
MOEBIUS_ROW_KERNELS_AVX2(f16_avx2, F16)
MOEBIUS_ROW_KERNELS_AVX2(fp8_avx2, Fp8)

}  // namespace moebius
