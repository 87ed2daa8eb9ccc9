// int4 and int8 as the AVX-512 kernels of rows read them (rows_int_avx512.h). Only *_avx512.cpp and *_amx.cpp
// files include this; all of it has internal linkage, for the reason that rows_avx2.h gives.
#pragma once

#include "kernels/cpu/rows_int_many_avx512.h"
#include "kernels/cpu/rows_int_token_avx2.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

struct Int4 {
  static constexpr int64_t kUnitGroups = 4, kUnitBytes = 128, kGroupBytes = 16;
  static constexpr int32_t kDotOffset = 8;

  static void dot_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
                        float* y) {
    dot_wide_token<Int4>(w, begin, end, x, token, y);
  }

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(arranged), even_then_odd(q));
  }

  // Even columns of four groups, then odd ones.
  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    for (int g = 0; g < 4; ++g) {
      const __m256i group = even_then_odd(q + g * kActivationGroup);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(arranged + 16 * g), _mm256_castsi256_si128(group));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(arranged + 64 + 16 * g),
                       _mm256_extracti128_si256(group, 1));
    }
  }

  static inline __m512i row_sums(const uint8_t* row, const int8_t* arranged) {
    const __m512i low = _mm512_set1_epi8(15), codes = load_wide(row);
    const __m512i even =
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(codes, low), load_wide(arranged));
    return _mm512_dpbusd_epi32(even, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low),
                               load_wide(arranged + 64));
  }

  // Each quarter of low and high is a group.
  static inline void join(__m512i low, __m512i high, __m512i* sums) {
    sums[0] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
    sums[1] = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
  }

  static inline void unpack(const __m512i* words, __m512i* codes) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      codes[j] = _mm512_and_si512(words[j], low);
      codes[4 + j] = _mm512_and_si512(_mm512_srli_epi32(words[j], 4), low);
    }
  }
};

// One token, 32 bytes of a row at a time: read in pieces of 64 the rows come from memory more slowly.
struct Int8Token {
  static constexpr int64_t kUnitGroups = 1;
  static constexpr int32_t kOffset = 128;

  static inline void arrange_unit(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }

  static inline __m256i two_rows(const uint8_t* rows, int64_t stride, __m256i q) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = _mm256_dpbusd_epi32(zero, load_bytes(rows), q),
                  b = _mm256_dpbusd_epi32(zero, load_bytes(rows + stride), q);
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  }

  // Lane i of each half: a half of row i's sum.
  static inline __m256i four_rows(const uint8_t* rows, int64_t stride, __m256i q) {
    const __m256i ab = two_rows(rows, stride, q), cd = two_rows(rows + 2 * stride, stride, q);
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }

  static inline void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* arranged, __m256i* sums) {
    const __m256i q = load_bytes(arranged);
    const __m256i low = four_rows(rows, stride, q), high = four_rows(rows + 4 * stride, stride, q);
    sums[0] = _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                               _mm256_permute2x128_si256(low, high, 0x31));
  }
};

struct Int8 {
  static constexpr int64_t kGroupBytes = 32;
  static constexpr int32_t kDotOffset = 128;

  static void dot_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
                        float* y) {
    moebius::dot_token<Int8Token>(w, begin, end, x, token, y);
  }

  static inline void arrange(const int8_t* q, int8_t* arranged) {
    std::memcpy(arranged, q, kActivationGroup);
  }
  static inline void unpack(const __m512i* words, __m512i* codes) {
    for (int j = 0; j < 8; ++j) codes[j] = words[j];
  }
};

// Of any number of tokens, for rows_int_amx.cpp too, which asks for lines less often (rows_view_avx2.h).
static inline void dot_rows_wide_int4(const Matrix& w, int64_t begin, int64_t end, const Activations& x,
                                      const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  dot_rows_wide<Int4>(w, begin, end, x, tokens, n, y, ldy, dot_rows_int4_avx2, dot_rows_int4_exact_avx512);
}

}  // namespace
}  // namespace moebius
