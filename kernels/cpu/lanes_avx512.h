// Sums over the lanes of AVX-512 registers. Only *_avx512.cpp files include this; all of it has internal
// linkage, for the reason that rows_avx2.h gives.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

namespace moebius {
namespace {

#define MOEBIUS_UNROLL _Pragma("GCC unroll 16")

// The sums of a, b, c and d, each ((l0 + l2) + (l1 + l3)) within four lanes, then over the fours.
static inline __m128 sum_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_castps_pd(ab), high = _mm512_castps_pd(cd);
  const __m512 sums = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(sums),
                                      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sums), 1)));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// out[i * ld + j] = the sum over the lanes of sums[i][j].
template <int R, int K>
static inline void store_sums(const __m512 (&sums)[R][K], float* out, int64_t ld) {
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    const __m128 row = sum_lanes(sums[i][0], sums[i][K > 1], sums[i][K > 2 ? 2 : 0], sums[i][K > 3 ? 3 : 0]);
    _mm_mask_storeu_ps(out + i * ld, static_cast<__mmask8>((1 << K) - 1), row);
  }
}

// body(std::integral_constant<int, R>(), r) for rows r .. r + R - 1, R as many as fill the registers beside
// four keys, until all have gone by.
template <class Body>
static inline void by_blocks_of_rows(int64_t rows, const Body& body) {
  for (int64_t r = 0, some; r < rows; r += some) {
    const int64_t left = rows - r;
    some = left == 8 ? 4 : left < 6 ? left : 6;
    if (some == 6) body(std::integral_constant<int, 6>(), r);
    if (some == 5) body(std::integral_constant<int, 5>(), r);
    if (some == 4) body(std::integral_constant<int, 4>(), r);
    if (some == 3) body(std::integral_constant<int, 3>(), r);
    if (some == 2) body(std::integral_constant<int, 2>(), r);
    if (some == 1) body(std::integral_constant<int, 1>(), r);
  }
}

}  // namespace
}  // namespace moebius
