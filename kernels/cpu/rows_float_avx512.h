// AVX-512 row kernels over any format that can load sixteen numbers: dots in float32 and sums of rows. Only
// files for these instruction sets include this; all of it has internal linkage, for the reason that
// rows_avx2.h gives.
//
// A format F offers
//   static __m512 load(const uint8_t* row, int64_t c);  // columns c .. c + 15, without the scale
//   static constexpr kScaled, kEightBytes and, with scales, kScaleRows and kFactor, as rows_avx2.h has them
//
// Order of sums: for a (row, token), four times sixteen lanes over columns l, l + 64, ... ascending, one fma
// each, then (first + second) + (third + fourth), and the lanes by halves. With scales, the lanes start anew
// for each group and are added by fma(..., scale, total); groups of 32 have two times sixteen lanes, and
// every other one a total of its own. One row at a time, read in narrow loads, whatever the number of tokens:
// of 64 bytes at a time a Zen 4 reads a third less from memory than of 32.
#pragma once

#include "kernels/cpu/rows_avx2.h"

namespace moebius {
namespace {

static constexpr int64_t kLanes = 16;

// The last count < 16 columns of a row, from c on; zero bytes behind them, as finite as the format.
template <class F>
static inline __m512 load_end(const Rows& w, const uint8_t* row, int64_t c) {
  const int64_t at = c / 8 * F::kEightBytes;
  // In one store, which the processor can load from at once.
  alignas(64) uint8_t padded[64];
  _mm512_store_si512(padded, _mm512_maskz_loadu_epi8((uint64_t{1} << (w.bytes - at)) - 1, row + at));
  return F::load(padded, 0);
}

static inline __mmask16 lanes_below(int64_t count) {
  return count < kLanes ? static_cast<__mmask16>((1u << count) - 1) : static_cast<__mmask16>(0xffff);
}

// Scales g .. g + 15 of a row, as far as it has them, times kFactor.
template <class F>
static inline __m512 sixteen_scales(const Rows& w, int64_t r, int64_t g) {
  const int64_t at = r / F::kScaleRows * w.per_row + g;
  const __mmask16 mask = lanes_below(w.per_row - g);
  __m512 scales;
  if (w.scale_dtype == DType::kF32) {
    scales = _mm512_maskz_loadu_ps(mask, w.scales + at * 4);
  } else {
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, w.scales + at * 2);
    scales = w.scale_dtype == DType::kF16
                 ? _mm512_cvtph_ps(halves)
                 : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  return _mm512_mul_ps(scales, _mm512_set1_ps(F::kFactor));
}

// Columns [begin, end) of a row by T tokens: the sum of their lanes.
template <class F, int T>
static inline void dot_part(const Rows& w, const uint8_t* row, int64_t begin, int64_t end,
                            const float* const* x, const RowsAhead& ahead, __m512 (&sum)[T]) {
  __m512 lanes[4][T];
  for (int i = 0; i < 4; ++i)
    for (int t = 0; t < T; ++t) lanes[i][t] = _mm512_setzero_ps();
  int64_t c = begin;
  for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
    const int64_t at = c / 8 * F::kEightBytes;
    for (int64_t i = 0; T > 1 && i < 8 * F::kEightBytes; i += kLine)
      if (8 * F::kEightBytes >= kLine || at % kLine == 0) ahead.line(row + at + i);
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m512 weight = F::load(row, c + i * kLanes);
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t)
        lanes[i][t] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(x[t] + c + i * kLanes), lanes[i][t]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < 4; ++i, c += kLanes) {
    if (c >= end) break;
    const bool whole = c + kLanes <= end;
    const __mmask16 mask = whole ? static_cast<__mmask16>(0xffff) : lanes_below(end - c);
    const __m512 weight = whole ? F::load(row, c) : load_end<F>(w, row, c);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t)
      lanes[i][t] = _mm512_mask3_fmadd_ps(weight, _mm512_maskz_loadu_ps(mask, x[t] + c), lanes[i][t], mask);
  }
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t)
    sum[t] = _mm512_add_ps(_mm512_add_ps(lanes[0][t], lanes[1][t]), _mm512_add_ps(lanes[2][t], lanes[3][t]));
}

static inline float sum_wide(__m512 v) {
  return sum_lanes(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

// 32 columns of a row from c on, and the same of T tokens: part[t], their products.
template <class F, int T>
static inline void dot_group(const Rows& w, const uint8_t* row, int64_t c, const float* const* x,
                             __m512 (&part)[T]) {
  if (c + 2 * kLanes <= w.cols) {
    const __m512 low = F::load(row, c), high = F::load(row, c + kLanes);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t)
      part[t] = _mm512_fmadd_ps(high, _mm512_loadu_ps(x[t] + c + kLanes),
                                _mm512_mul_ps(low, _mm512_loadu_ps(x[t] + c)));
    return;
  }
  const int64_t in_low = w.cols - c < kLanes ? w.cols - c : kLanes, in_high = w.cols - c - in_low;
  const __m512 low = in_low == kLanes ? F::load(row, c) : load_end<F>(w, row, c);
  const __m512 high = in_high > 0 ? load_end<F>(w, row, c + kLanes) : _mm512_setzero_ps();
  for (int t = 0; t < T; ++t) {
    const __m512 x_low = _mm512_maskz_loadu_ps(lanes_below(in_low), x[t] + c);
    const __m512 x_high = _mm512_maskz_loadu_ps(lanes_below(in_high), x[t] + c + in_low);
    part[t] = _mm512_fmadd_ps(high, x_high, _mm512_mul_ps(low, x_low));
  }
}

// A row whose groups are of 32 columns.
template <class F, int T>
static inline void dot_narrow_groups(const Rows& w, int64_t r, const float* const* x, __m512 (&total)[T]) {
  const uint8_t* row = w.row(r);
  __m512 totals[2][T], part[T];
  for (int t = 0; t < T; ++t) totals[0][t] = totals[1][t] = _mm512_setzero_ps();
  alignas(64) float scales[kLanes];
  for (int64_t first = 0; first < w.per_row; first += kLanes) {
    _mm512_store_ps(scales, sixteen_scales<F>(w, r, first));
    const int64_t count = w.per_row - first < kLanes ? w.per_row - first : kLanes;
    for (int64_t i = 0; i < count; i += 2) {
      MOEBIUS_UNROLL
      for (int half = 0; half < 2; ++half) {
        if (i + half == count) break;
        dot_group<F, T>(w, row, (first + i + half) * 2 * kLanes, x, part);
        const __m512 scale = _mm512_set1_ps(scales[i + half]);
        for (int t = 0; t < T; ++t) totals[half][t] = _mm512_fmadd_ps(part[t], scale, totals[half][t]);
      }
    }
  }
  for (int t = 0; t < T; ++t) total[t] = _mm512_add_ps(totals[0][t], totals[1][t]);
}

template <class F, int T>
static inline void dot_wide_row(const Rows& w, int64_t r, const float* const* x, float* const* y,
                                int64_t at) {
  const uint8_t* row = w.row(r);
  const RowsAhead ahead(w, r);
  __m512 total[T];
  if constexpr (!F::kScaled) {
    dot_part<F, T>(w, row, 0, w.cols, x, ahead, total);
  } else if (w.group == 2 * kLanes) {
    dot_narrow_groups<F, T>(w, r, x, total);
  } else {
    for (int t = 0; t < T; ++t) total[t] = _mm512_setzero_ps();
    for (int64_t c = 0, g = 0; c < w.cols; c += w.group, ++g) {
      __m512 part[T];
      dot_part<F, T>(w, row, c, c + w.group < w.cols ? c + w.group : w.cols, x, ahead, part);
      const __m512 scale = _mm512_set1_ps(scale_at(w, r / F::kScaleRows * w.per_row + g) * F::kFactor);
      for (int t = 0; t < T; ++t) total[t] = _mm512_fmadd_ps(part[t], scale, total[t]);
    }
  }
  for (int t = 0; t < T; ++t) y[t][at] = sum_wide(total[t]);
}

template <class F, int T>
static void dot_wide_tokens(const Rows& w, int64_t begin, int64_t end, const float* const* x,
                            float* const* y) {
  for (int64_t r = begin; r < end; ++r) dot_wide_row<F, T>(w, r, x, y, r - begin);
}

// The rows of one to four tokens, by dots[their number].
using DotTokens = void (*)(const Rows&, int64_t, int64_t, const float* const*, float* const*);

static void dot_by_tokens(const DotTokens (&dots)[5], const Matrix& matrix, int64_t begin, int64_t end,
                          const Activations& x, const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  const Rows w(matrix);
  for (int64_t i = 0; i < n;) {
    const float* token[4];
    float* out[4];
    const int64_t count = n - i < 4 ? n - i : 4;
    for (int64_t t = 0; t < count; ++t, ++i) {
      token[t] = x.x + (tokens ? tokens[i] : i) * x.ld;
      out[t] = y + i * ldy;
    }
    dots[count](w, begin, end, token, out);
  }
}

template <class F>
static constexpr DotTokens kWideDots[5] = {nullptr, dot_wide_tokens<F, 1>, dot_wide_tokens<F, 2>,
                                           dot_wide_tokens<F, 3>, dot_wide_tokens<F, 4>};

// y += coefficient[i] * row r0 + i, for R rows in ascending order.
template <class F, int R>
static inline void axpy_wide_tile(const Rows& w, int64_t r0, const float* coefficient, float* y) {
  alignas(64) float factors[R][kLanes];  // of sixteen groups
  if constexpr (!F::kScaled)
    for (int i = 0; i < R; ++i) factors[i][0] = coefficient[i];
  for (int64_t c0 = 0, g = 0; c0 < w.cols; c0 += w.group, ++g) {
    if constexpr (F::kScaled) {
      for (int i = 0; g % kLanes == 0 && i < R; ++i)
        _mm512_store_ps(factors[i],
                        _mm512_mul_ps(sixteen_scales<F>(w, r0 + i, g), _mm512_set1_ps(coefficient[i])));
    }
    const int64_t end = c0 + w.group < w.cols ? c0 + w.group : w.cols;
    const auto factor = [&](int i) { return _mm512_set1_ps(factors[i][F::kScaled ? g % kLanes : 0]); };
    int64_t c = c0;
    for (; c + kLanes <= end; c += kLanes) {
      __m512 sum = _mm512_loadu_ps(y + c);
      if (c * F::kEightBytes / 8 % 64 ==
          0)  // the rows further on, which no hardware prefetcher would see coming
        for (int i = R; i < 2 * R; ++i)
          _mm_prefetch(reinterpret_cast<const char*>(w.row(r0 + i) + c / 8 * F::kEightBytes), _MM_HINT_T1);
      MOEBIUS_UNROLL
      for (int i = 0; i < R; ++i) sum = _mm512_fmadd_ps(factor(i), F::load(w.row(r0 + i), c), sum);
      _mm512_storeu_ps(y + c, sum);
    }
    if (c == end) continue;
    const __mmask16 mask = lanes_below(end - c);
    __m512 sum = _mm512_maskz_loadu_ps(mask, y + c);
    for (int i = 0; i < R; ++i) sum = _mm512_fmadd_ps(factor(i), load_end<F>(w, w.row(r0 + i), c), sum);
    _mm512_mask_storeu_ps(y + c, mask, sum);
  }
}

template <class F>
static void axpy_rows_wide(const Matrix& matrix, int64_t begin, int64_t end, const float* coefficient,
                           float* y) {
  const Rows w(matrix);
  int64_t r = begin;
  for (; r + 8 <= end; r += 8) axpy_wide_tile<F, 8>(w, r, coefficient + (r - begin), y);
  for (; r < end; ++r) axpy_wide_tile<F, 1>(w, r, coefficient + (r - begin), y);
}

}  // namespace
}  // namespace moebius
