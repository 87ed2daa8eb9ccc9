// Rows turned into the lanes of AVX-512 registers. Only *_avx512.cpp and *_amx.cpp files include this; all of
// it has internal linkage, for the reason that rows_avx2.h gives.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace moebius {
namespace {

static inline __m512i load_four(const uint8_t* at, int64_t stride) {
  const auto load = [&](int64_t i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 4 * i * stride));
  };
  __m512i rows = _mm512_castsi128_si512(load(0));
  rows = _mm512_inserti32x4(rows, load(1), 1);
  rows = _mm512_inserti32x4(rows, load(2), 2);
  return _mm512_inserti32x4(rows, load(3), 3);
}

// words[j] lane i = bytes 4j .. 4j + 3 of row i of sixteen.
static inline void gather_wide(const uint8_t* at, int64_t stride, __m512i* words) {
  const __m512i a = load_four(at, stride), b = load_four(at + stride, stride);
  const __m512i c = load_four(at + 2 * stride, stride), d = load_four(at + 3 * stride, stride);
  const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
  words[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
  words[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
  words[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
  words[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

}  // namespace
}  // namespace moebius
