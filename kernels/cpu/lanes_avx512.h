// Sums over the lanes of AVX-512 registers. Only *_avx512.cpp files include this; all of it has internal
// linkage, for the reason that rows_avx2.h gives.
#pragma once

#include <immintrin.h>

namespace moebius {
namespace {

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

}  // namespace
}  // namespace moebius
