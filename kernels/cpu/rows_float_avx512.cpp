// AVX-512 row kernels of the float formats, and of integer ones on activations that are not rounded.
#include "kernels/cpu/rows_float_avx512.h"
#include "kernels/cpu/rows_fp8_avx512.h"

#include "kernels/rows.h"

namespace moebius {
namespace {

static inline __m128i load_16_bytes(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
static inline __m256i load_32_bytes(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

struct F32 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 32;
  static inline __m512 load(const uint8_t* row, int64_t c) {
    const __m512i low = _mm512_castsi256_si512(load_32_bytes(row + c * 4));
    return _mm512_castsi512_ps(_mm512_inserti64x4(low, load_32_bytes(row + c * 4 + 32), 1));
  }
};

struct Bf16 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 16;
  static inline __m512 load(const uint8_t* row, int64_t c) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32_bytes(row + c * 2)), 16));
  }
};

struct F16 {
  static constexpr bool kScaled = false;
  static constexpr int64_t kEightBytes = 16;
  static inline __m512 load(const uint8_t* row, int64_t c) {
    return _mm512_cvtph_ps(load_32_bytes(row + c * 2));
  }
};

// E4M3: sign and magnitude moved to where a half has them give the value times 2^-8 exactly.
struct Fp8 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 8, kScaleRows = kFp8Block;
  static constexpr float kFactor = 256;
  static inline __m512 load(const uint8_t* row, int64_t c) {
    const __m256i moved = _mm256_slli_epi16(_mm256_cvtepi8_epi16(load_16_bytes(row + c)), 7);
    const __m256i halves = _mm256_and_si256(moved, _mm256_set1_epi16(static_cast<short>(0xbfff)));
    return _mm512_cvtph_ps(halves);  // bit 14 was a second sign
  }
};

struct Int8 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 8, kScaleRows = 1;
  static constexpr float kFactor = 1;
  static inline __m512 load(const uint8_t* row, int64_t c) {
    const __m512i codes = _mm512_cvtepu8_epi32(load_16_bytes(row + c));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(128)));
  }
};

struct Int4 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kEightBytes = 4, kScaleRows = 1;
  static constexpr float kFactor = 1;
  // A byte in each of eight pairs of lanes, moved so that both lanes have their nibble at the bottom; the
  // look-up takes no notice of what is above it.
  static inline __m512 load(const uint8_t* row, int64_t c) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + c / 2));
    const __m512i pairs = _mm512_cvtepu8_epi64(bytes);
    const __m512i codes = _mm512_or_si512(pairs, _mm512_slli_epi64(pairs, 28));
    const __m512 numbers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(codes, numbers);
  }
};

// Each token in the form that it takes alone, so that its bits do not depend on its company.
template <int T>
void dot_fp8_tokens(const Rows& w, int64_t begin, int64_t end, const float* const* x, float* const* y) {
  if (can_move(w) && dot_moved_tokens<MovedBits, T>(w, begin, end, x, y)) return;
  if (T == 1 || !can_move(w)) return dot_wide_tokens<Fp8, T>(w, begin, end, x, y);
  for (int t = 0; t < T; ++t) dot_fp8_tokens<1>(w, begin, end, x + t, y + t);
}
template <>
constexpr DotTokens kWideDots<Fp8>[5] = {nullptr, dot_fp8_tokens<1>, dot_fp8_tokens<2>, dot_fp8_tokens<3>,
                                         dot_fp8_tokens<4>};

}  // namespace

#define MOEBIUS_FLOAT_ROWS_AVX512(suffix, F)                                                                 \
  void dot_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const Activations& x,                  \
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {                          \
    dot_by_tokens(kWideDots<F>, w, begin, end, x, tokens, n, y, ldy);                                        \
  }                                                                                                          \
  void axpy_rows_##suffix(const Matrix& w, int64_t begin, int64_t end, const float* coefficient, float* y) { \
    axpy_rows_wide<F>(w, begin, end, coefficient, y);                                                        \
  }

MOEBIUS_FLOAT_ROWS_AVX512(f32_avx512, F32)
MOEBIUS_FLOAT_ROWS_AVX512(bf16_avx512, Bf16)
MOEBIUS_FLOAT_ROWS_AVX512(f16_avx512, F16)
MOEBIUS_FLOAT_ROWS_AVX512(fp8_avx512, Fp8)
MOEBIUS_FLOAT_ROWS_AVX512(int8_exact_avx512, Int8)
MOEBIUS_FLOAT_ROWS_AVX512(int4_exact_avx512, Int4)

}  // namespace moebius
