// Small pieces of the AVX2 kernels. To be included by *_avx2.cpp only; everything is static, so that no code
// for this instruction set is shared with the rest of the program.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace moebius {

// Loads and stores of the first `count` (0..8) of eight numbers; the others read as 0.
static inline __m256i first_lanes(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
}

static constexpr int64_t kLanes = 8;

// full(offset) for eight numbers at a time, part(offset, mask) for the last ones.
template <class Full, class Part>
static inline void by_eight(int64_t n, const Full& full, const Part& part) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) full(i);
  if (i < n) part(i, first_lanes(n - i));
}

// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), the one order in which lanes are added here: of four vectors.
static inline __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

static inline float sum_lanes(__m256 x) { return _mm_cvtss_f32(sum_lanes(x, x, x, x)); }

static inline float max_lanes(__m256 x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// e^x within 2 units in the last place where the result is normal, gradual underflow below, infinity above
// 88.73; NaN stays NaN. x = n ln 2 + r, |r| <= ln(2) / 2, e^r by its Taylor series of degree 7, whose first
// dropped term r^8 / 8! is below 2^-27.
static inline __m256 exp_avx2(__m256 x) {
  // The operand order of min and max lets a NaN in x through.
  x = _mm256_max_ps(_mm256_set1_ps(-104.0f), _mm256_min_ps(_mm256_set1_ps(89.0f), x));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  // ln 2 as a number of 15 bits, so that n times it is exact, and the rest.
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
  __m256 e = _mm256_set1_ps(1.0f / 5040);
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 720));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 120));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 24));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f / 6));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(0.5f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  e = _mm256_fmadd_ps(e, r, _mm256_set1_ps(1.0f));
  // 2^n in two factors: n reaches from -150 to 128, one exponent field does not.
  const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(e, _mm256_castsi256_ps(high)), _mm256_castsi256_ps(low));
}

static inline __m256 silu_avx2(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(x, _mm256_add_ps(one, exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

}  // namespace moebius
