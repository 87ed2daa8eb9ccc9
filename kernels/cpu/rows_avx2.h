// AVX2 row kernels over any format that can load eight numbers: dots in float32, sums of rows, dequantised
// rows. Only files for these instruction sets include this. All of it has internal linkage, and inline
// functions of other headers are not called: a copy of one compiled here could be linked into code that runs
// without AVX2.
//
// A format F offers
//   static __m256 load(const uint8_t* row, int64_t c);  // columns c .. c + 7, without the scale; c % 8 == 0
//   static constexpr int64_t kEightBytes;               // that these take
//   static constexpr bool kScaled;                      // has scales, constant over `group` columns
//   static constexpr int64_t kScaleRows;                // rows that share a scale
//   static constexpr float kFactor;                     // belongs to every scale
//
// A format may also offer load_sixteen(row, c, low, high), columns c .. c + 7 and c + 8 .. c + 15.
//
// Order of sums: for a (row, token), two times eight lanes over columns l, l + 16, ... ascending, one fma
// each, then low + high; with scales, the lanes start anew for each group and are added by fma(low + high,
// scale, total). One row at a time, whatever the number of tokens: the prefetchers of processors like one
// stream. Of 256 MB on two cores, FP8 reads 30 GB/s so, 11 and 16 when two or four rows are walked side by
// side.
#pragma once

#include "kernels/cpu/rows_view_avx2.h"

namespace moebius {
namespace {

// Without it GCC keeps arrays of registers in memory.
#define MOEBIUS_UNROLL _Pragma("GCC unroll 16")

static inline float sum_lanes(__m256 v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline __m256i first_lanes(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
}

// Columns c .. c + count - 1 of a row that ends there, count < 8; the other lanes hold numbers of no meaning,
// all finite for finite formats.
template <class F>
static inline __m256 load_tail(const Rows& w, const uint8_t* row, int64_t c) {
  uint8_t padded[32] = {};
  const int64_t at = c / 8 * F::kEightBytes;
  std::memcpy(padded, row + at, static_cast<size_t>(w.bytes - at));
  return F::load(padded, 0);
}

template <class F>
static inline void load_sixteen(const uint8_t* row, int64_t c, __m256& low, __m256& high) {
  if constexpr (requires { F::load_sixteen(row, c, low, high); }) {
    F::load_sixteen(row, c, low, high);
  } else {
    low = F::load(row, c), high = F::load(row, c + 8);
  }
}

// Columns [c, end) of a row by T tokens, added to their lanes.
template <class F, int T>
static inline void dot_columns(const Rows& w, const uint8_t* row, int64_t c, int64_t end,
                               const float* const* x, const RowsAhead& ahead, __m256 (&low)[T],
                               __m256 (&high)[T]) {
  constexpr int64_t kInLine = 512 / F::kEightBytes;  // columns
  for (; c + 16 <= end; c += 16) {
    if (T > 1 && c % kInLine == 0) ahead.line(row + c / 8 * F::kEightBytes);
    __m256 first, second;
    load_sixteen<F>(row, c, first, second);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t) low[t] = _mm256_fmadd_ps(first, _mm256_loadu_ps(x[t] + c), low[t]);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t) high[t] = _mm256_fmadd_ps(second, _mm256_loadu_ps(x[t] + c + 8), high[t]);
  }
  const bool eight = c + 8 <= end;
  if (eight) {
    const __m256 weight = F::load(row, c);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t) low[t] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x[t] + c), low[t]);
    c += 8;
  }
  if (c == end) return;
  const __m256i mask = first_lanes(end - c);
  const __m256 weight = _mm256_and_ps(load_tail<F>(w, row, c), _mm256_castsi256_ps(mask));
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t) {
    __m256& lanes = eight ? high[t] : low[t];
    lanes = _mm256_fmadd_ps(weight, _mm256_maskload_ps(x[t] + c, mask), lanes);
  }
}

// One row by T tokens: y[t][0].
template <class F, int T>
static inline void dot_row(const Rows& w, int64_t r, const float* const* x, float* const* y, int64_t at) {
  const uint8_t* row = w.row(r);
  const RowsAhead ahead(w, r);
  __m256 total[T], low[T], high[T];
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t) total[t] = low[t] = high[t] = _mm256_setzero_ps();
  if constexpr (!F::kScaled) {
    dot_columns<F, T>(w, row, 0, w.cols, x, ahead, low, high);
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t) total[t] = _mm256_add_ps(low[t], high[t]);
  } else {
    for (int64_t c = 0, g = 0; c < w.cols; c += w.group, ++g) {
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t) low[t] = high[t] = _mm256_setzero_ps();
      dot_columns<F, T>(w, row, c, c + w.group < w.cols ? c + w.group : w.cols, x, ahead, low, high);
      const __m256 scale = _mm256_set1_ps(scale_at(w, r / F::kScaleRows * w.per_row + g) * F::kFactor);
      MOEBIUS_UNROLL
      for (int t = 0; t < T; ++t) total[t] = _mm256_fmadd_ps(_mm256_add_ps(low[t], high[t]), scale, total[t]);
    }
  }
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t) y[t][at] = sum_lanes(total[t]);
}

template <class F, int T>
static void dot_tokens(const Rows& w, int64_t begin, int64_t end, const float* const* x, float* const* y) {
  for (int64_t r = begin; r < end; ++r) dot_row<F, T>(w, r, x, y, r - begin);
}

template <class F>
static void dot_rows(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                     const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  const Rows w(matrix);
  for (int64_t i = 0; i < n;) {
    const float* token[4];
    float* out[4];
    const int count = n - i < 4 ? static_cast<int>(n - i) : 4;
    for (int t = 0; t < count; ++t, ++i) {
      token[t] = x.x + (tokens ? tokens[i] : i) * x.ld;
      out[t] = y + i * ldy;
    }
    if (count == 4) dot_tokens<F, 4>(w, begin, end, token, out);
    if (count == 3) dot_tokens<F, 3>(w, begin, end, token, out);
    if (count == 2) dot_tokens<F, 2>(w, begin, end, token, out);
    if (count == 1) dot_tokens<F, 1>(w, begin, end, token, out);
  }
}

// y += coefficient[i] * row r0 + i, for R rows in ascending order.
template <class F, int R>
static inline void axpy_tile(const Rows& w, int64_t r0, const float* coefficient, float* y) {
  for (int64_t c0 = 0, g = 0; c0 < w.cols; c0 += w.group, ++g) {
    const int64_t end = c0 + w.group < w.cols ? c0 + w.group : w.cols;
    __m256 factor[R];
    for (int i = 0; i < R; ++i) {
      float value = coefficient[i];
      if constexpr (F::kScaled) value *= scale_at(w, (r0 + i) / F::kScaleRows * w.per_row + g) * F::kFactor;
      factor[i] = _mm256_set1_ps(value);
    }
    int64_t c = c0;
    for (; c + 8 <= end; c += 8) {
      __m256 sum = _mm256_loadu_ps(y + c);
      for (int i = 0; i < R; ++i) sum = _mm256_fmadd_ps(factor[i], F::load(w.row(r0 + i), c), sum);
      _mm256_storeu_ps(y + c, sum);
    }
    if (c < end) {
      const __m256i mask = first_lanes(end - c);
      __m256 sum = _mm256_maskload_ps(y + c, mask);
      for (int i = 0; i < R; ++i) sum = _mm256_fmadd_ps(factor[i], load_tail<F>(w, w.row(r0 + i), c), sum);
      _mm256_maskstore_ps(y + c, mask, sum);
    }
  }
}

template <class F>
static void axpy_rows(const Matrix& matrix, int64_t begin, int64_t end, const float* coefficient, float* y) {
  const Rows w(matrix);
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) axpy_tile<F, 4>(w, r, coefficient + (r - begin), y);
  for (; r < end; ++r) axpy_tile<F, 1>(w, r, coefficient + (r - begin), y);
}

template <class F>
static void dequantize_rows(const Matrix& matrix, int64_t begin, int64_t end, float* out, int64_t ld) {
  const Rows w(matrix);
  for (int64_t r = begin; r < end; ++r, out += ld) {
    const uint8_t* row = w.row(r);
    for (int64_t c0 = 0, g = 0; c0 < w.cols; c0 += w.group, ++g) {
      const int64_t last = c0 + w.group < w.cols ? c0 + w.group : w.cols;
      const float scale = F::kScaled ? scale_at(w, r / F::kScaleRows * w.per_row + g) * F::kFactor : 1.0f;
      int64_t c = c0;
      for (; c + 8 <= last; c += 8) {
        const __m256 value = F::load(row, c);
        _mm256_storeu_ps(out + c, F::kScaled ? _mm256_mul_ps(value, _mm256_set1_ps(scale)) : value);
      }
      if (c < last) {
        const __m256 value = load_tail<F>(w, row, c);
        _mm256_maskstore_ps(out + c, first_lanes(last - c),
                            F::kScaled ? _mm256_mul_ps(value, _mm256_set1_ps(scale)) : value);
      }
    }
  }
}

}  // namespace
}  // namespace moebius
