// FP8 rows by AVX-512 in a third of the instructions that a way through halves takes: bits are moved to where
// a float has them, and tokens are brought into the order and the range that this needs. Another way from 64
// bytes to numbers can take the place of MovedBits.
//
// Of 64 bytes of a row, every second one of each word, then every second word, is moved by arithmetic shifts
// so that sign and magnitude lie where a float's do: the value times 2^-120, subnormals too. Byte 4 j + k of
// 64 is lane j of register k. A token is copied once per call, in that order and times 2^96, so that the
// products are the true ones times 2^-24; what is below 2^-102 of them loses bits. A token with a number
// from 2^30 on, or one that is not finite, goes by halves (rows_float_avx512.h).
//
// Order of sums: for a (row, token) and a group of 128 columns, sixteen lanes for each k over the two halves
// of the group, one product and one fma, then (first + second) + (third + fourth), added by fma(..., scale,
// total); in the end the lanes by halves. One row at a time, read in narrow loads.
#pragma once

#include <cmath>

#include "kernels/cpu/rows_float_avx512.h"

namespace moebius {
namespace {

static constexpr int64_t kMovedColumns = 8192;  // the most: a token's copy lies on the stack

// Whether rows of w can be walked by moved bits at all.
static inline bool can_move(const Rows& w) {
  return w.group == kFp8Block && w.cols % kFp8Block == 0 && w.cols <= kMovedColumns;
}

struct MovedBits {
  // What tokens and then scales are multiplied with; tokens stay below a limit.
  static constexpr float kTokenFactor = 0x1p96f, kScaleFactor = 0x1p24f, kLimit = 0x1p30f;

  // Register k, of 64 columns: those of the first eight lanes, 32 more than these in the others.
  static inline __m512i columns(int k) {
    const __m512i fourths = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_add_epi32(fourths, _mm512_set1_epi32(k));
  }

  static inline void load(const uint8_t* row, __m512 (&weights)[4]) {
    const auto half = [&](int i) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row) + i); };
    const __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(half(0)), half(1), 1);
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 4);
    const __m512i odd = _mm512_srai_epi16(bytes, 4);
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x87f00000));
    const auto number = [&](__m512i bits) { return _mm512_castsi512_ps(_mm512_and_si512(bits, mask)); };
    weights[0] = number(_mm512_slli_epi32(even, 16));
    weights[1] = number(_mm512_slli_epi32(odd, 16));
    weights[2] = number(even);
    weights[3] = number(odd);
  }
};

// 64 numbers of a token in the order of L. False: one is too large, or no number where that matters.
template <class L>
static inline bool move_numbers(const float* from, float* to) {
  const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + 16);
  const __m512 c = _mm512_loadu_ps(from + 32), d = _mm512_loadu_ps(from + 48);
  const __m512 limit = _mm512_set1_ps(L::kLimit);
  __mmask16 fit = 0xffff;
  for (const __m512 v : {a, b, c, d}) fit &= _mm512_cmp_ps_mask(_mm512_abs_ps(v), limit, _CMP_LT_OQ);
  MOEBIUS_UNROLL
  for (int k = 0; k < 4; ++k) {
    const __m512i at = L::columns(k);
    const __m256 first = _mm512_castps512_ps256(_mm512_permutex2var_ps(a, at, b));
    const __m256 second = _mm512_castps512_ps256(_mm512_permutex2var_ps(c, at, d));
    const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
    _mm512_store_ps(to + k * kLanes, _mm512_mul_ps(both, _mm512_set1_ps(L::kTokenFactor)));
  }
  return fit == 0xffff || L::kLimit == INFINITY;
}

// x: T tokens, moved.
template <class L, int T>
static void dot_moved_rows(const Rows& w, int64_t begin, int64_t end, const float (*x)[kMovedColumns],
                           float* const* y) {
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* row = w.row(r);
    const int64_t first = r / kFp8Block * w.per_row;
    const RowsAhead ahead(w, r);
    __m512 total[T];
    for (int t = 0; t < T; ++t) total[t] = _mm512_setzero_ps();
    for (int64_t g = 0; g < w.per_row; ++g) {
      const uint8_t* block = row + g * kFp8Block;
      __m512 low[4], high[4];
      ahead.line(block);
      L::load(block, low);
      ahead.line(block + 64);
      L::load(block + 64, high);
      const __m512 scale = _mm512_set1_ps(scale_at(w, first + g) * L::kScaleFactor);
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t) {
        const float* at = x[t] + g * kFp8Block;
        __m512 lanes[4];
        MOEBIUS_UNROLL
        for (int k = 0; k < 4; ++k)
          lanes[k] = _mm512_fmadd_ps(high[k], _mm512_load_ps(at + 64 + k * kLanes),
                                     _mm512_mul_ps(low[k], _mm512_load_ps(at + k * kLanes)));
        const __m512 part =
            _mm512_add_ps(_mm512_add_ps(lanes[0], lanes[1]), _mm512_add_ps(lanes[2], lanes[3]));
        total[t] = _mm512_fmadd_ps(part, scale, total[t]);
      }
    }
    for (int t = 0; t < T; ++t) y[t][r - begin] = sum_wide(total[t]);
  }
}

// T tokens; false where one cannot be moved, and nothing is written.
template <class L, int T>
static bool dot_moved_tokens(const Rows& w, int64_t begin, int64_t end, const float* const* token,
                             float* const* y) {
  alignas(64) float x[T][kMovedColumns];
  for (int t = 0; t < T; ++t)
    for (int64_t c = 0; c < w.cols; c += 64)
      if (!move_numbers<L>(token[t] + c, x[t] + c)) return false;
  dot_moved_rows<L, T>(w, begin, end, x, y);
  return true;
}

}  // namespace
}  // namespace moebius
