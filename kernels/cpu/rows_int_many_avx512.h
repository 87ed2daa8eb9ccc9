// Many tokens times int4 or int8 rows by AVX-512 VNNI, and which way a number of tokens goes. Only
// *_avx512.cpp files include this; all of it has internal linkage, for the reason that rows_avx2.h gives.
//
// A group of 32 columns of 32 rows is unpacked into sixteen registers, four columns of sixteen rows in each,
// and multiplied with token after token: four activations, broadcast, serve two products. (With the sixteen
// rows of rows_int_avx512.h they serve one, and a Zen 4, which loads a register a cycle, multiplies at 0.6 of
// what it could.) The rows are copied line by line first, for 32 rows of 2048 bytes meet in two sets of the
// first-level cache; few tokens do not repay that. Totals lie in that cache, activations in the second.
// Nothing is asked for ahead: multiplying takes longer than memory does, and int8 with it took three times as
// long.
#pragma once

#include "kernels/cpu/rows_int_avx512.h"

namespace moebius {
namespace {

constexpr int64_t kManyTokens = 17, kMostTokens = 32, kManyRows = 32;

// Groups [first, last) of n tokens, group by group.
struct TokenGroups {
  alignas(64) int8_t q[kBatchGroups][kMostTokens][kActivationGroup];
  int32_t start[kBatchGroups][kMostTokens];  // of a group's sum: minus what the offset of codes adds
  float scale[kBatchGroups][kMostTokens];
  int64_t n, first, last;

  template <class F>
  void fill(const Activations& x, const int64_t* token, int64_t groups) {
    for (int64_t t = 0; t < n; ++t) {
      const int64_t at = token[t] * groups + first;
      for (int64_t g = 0; g < last - first; ++g) {
        F::arrange(x.q + (at + g) * kActivationGroup, q[g][t]);
        start[g][t] = -F::kDotOffset * x.sum[at + g];
        scale[g][t] = x.scale[at + g];
      }
    }
  }
};

// total[t] += group g, for 32 rows that are read from `at` on, a line apart.
template <class F>
static inline void dot_group(const uint8_t* at, const TokenGroups& x, int64_t g, const float* scales,
                             float (*total)[kManyRows]) {
  __m512i codes[2][8];
  MOEBIUS_UNROLL
  for (int h = 0; h < 2; ++h) {
    __m512i words[F::kGroupBytes / 4];
    for (int64_t i = 0; i < F::kGroupBytes; i += 16)
      gather_wide(at + 16 * h * kLine + i, kLine, words + i / 4);
    F::unpack(words, codes[h]);
  }
  const __m512 w_scale[2] = {_mm512_load_ps(scales), _mm512_load_ps(scales + 16)};
  for (int64_t t = 0; t < x.n; ++t) {
    __m512i sums[2];
    sums[0] = sums[1] = _mm512_set1_epi32(x.start[g][t]);
    MOEBIUS_UNROLL
    for (int j = 0; j < 8; ++j) {
      int32_t word;
      std::memcpy(&word, x.q[g][t] + 4 * j, 4);
      const __m512i four = _mm512_set1_epi32(word);
      sums[0] = _mm512_dpbusd_epi32(sums[0], codes[0][j], four);
      sums[1] = _mm512_dpbusd_epi32(sums[1], codes[1][j], four);
    }
    const __m512 x_scale = _mm512_set1_ps(x.scale[g][t]);
    MOEBIUS_UNROLL
    for (int h = 0; h < 2; ++h) {
      float* to = total[t] + 16 * h;
      _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[h]), _mm512_mul_ps(w_scale[h], x_scale),
                                          _mm512_load_ps(to)));
    }
  }
}

// A line of each row, of which `left` bytes are its own; zeros behind them.
static inline void copy_lines(const uint8_t* at, int64_t stride, int64_t left, uint8_t (*lines)[kLine]) {
  const __mmask64 mask = left < kLine ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
  for (int i = 0; i < kManyRows; ++i)
    _mm512_store_si512(lines[i], _mm512_maskz_loadu_epi8(mask, at + i * stride));
}

// y[t] = the groups of the tokens, for rows r .. r + 31, on top of what it holds of earlier groups.
template <class F>
static void dot_many_rows(const Rows& w, int64_t r, const TokenGroups& x, float* const* y) {
  alignas(64) float scales[kBatchGroups][kManyRows], total[kMostTokens][kManyRows];
  for (int eight = 0; eight < kManyRows; eight += 8)
    spread_scales(w, eight_rows(w, r + eight, false), x.first, x.last, scales[0] + eight, kManyRows);
  for (int64_t t = 0; t < x.n; ++t) {
    if (x.first == 0)
      std::memset(total[t], 0, sizeof total[t]);
    else
      std::memcpy(total[t], y[t], sizeof total[t]);
  }
  const int64_t from = x.first * F::kGroupBytes, count = x.last - x.first;
  const uint8_t* at = w.row(r) + from;
  for (int64_t g = 0; g < count; at += kLine) {
    alignas(64) uint8_t lines[kManyRows][kLine];
    copy_lines(at, w.bytes, w.bytes - from - g * F::kGroupBytes, lines);
    for (int64_t i = 0; i < kLine && g < count; i += F::kGroupBytes, ++g) {
      dot_group<F>(lines[0] + i, x, g, scales[g], total);
    }
  }
  for (int64_t t = 0; t < x.n; ++t) std::memcpy(y[t], total[t], sizeof total[t]);
}

// Rows [begin, end), a multiple of 32.
template <class F>
static void dot_many_tokens(const Rows& w, int64_t begin, int64_t end, const Activations& x,
                            const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  TokenGroups slice;
  for (int64_t i = 0; i < n; i += kMostTokens) {
    int64_t token[kMostTokens];
    slice.n = n - i < kMostTokens ? n - i : kMostTokens;
    for (int64_t t = 0; t < slice.n; ++t) token[t] = tokens ? tokens[i + t] : i + t;
    for (slice.first = 0; slice.first < groups; slice.first = slice.last) {
      slice.last = slice.first + kBatchGroups < groups ? slice.first + kBatchGroups : groups;
      slice.fill<F>(x, token, groups);
      for (int64_t r = begin; r < end; r += kManyRows) {
        float* at[kMostTokens];
        for (int64_t t = 0; t < slice.n; ++t) at[t] = y + (i + t) * ldy + (r - begin);
        dot_many_rows<F>(w, r, slice, at);
      }
    }
  }
}

// narrow: the AVX2 kernel, for rows that are left over; exact: that for activations which are not rounded.
template <class F>
static void dot_rows_wide(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t n, float* y, int64_t ldy,
                          decltype(FormatKernels::dot_rows) narrow, decltype(FormatKernels::dot_rows) exact) {
  if (!x.q) return exact(matrix, begin, end, x, tokens, n, y, ldy);
  if (matrix.cols == 0) return narrow(matrix, begin, end, x, tokens, n, y, ldy);
  const Rows w(matrix);
  using Dot =
      void (*)(const Rows&, int64_t, int64_t, const Activations&, const int32_t*, int64_t, float*, int64_t);
  static constexpr Dot kDots[] = {nullptr,
                                  nullptr,
                                  dot_wide_batch<F, 2>,
                                  dot_wide_batch<F, 3>,
                                  dot_wide_batch<F, 4>,
                                  dot_wide_batch<F, 5>,
                                  dot_wide_batch<F, 6>,
                                  dot_wide_batch<F, 7>,
                                  dot_wide_batch<F, 8>};
  const int64_t whole = begin + (end - begin) / 16 * 16;
  const int64_t done = n >= kManyTokens ? begin + (end - begin) / 32 * 32 : begin;  // by many tokens
  if (done > begin) dot_many_tokens<F>(w, begin, done, x, tokens, n, y, ldy);
  for (int64_t i = 0; i < n && done < whole; i += kTokens) {
    const int64_t count = n - i < kTokens ? n - i : kTokens;
    if (count > 1) {
      kDots[count](w, done, whole, x, tokens, i, y + (done - begin), ldy);
      continue;
    }
    const int32_t token = tokens ? tokens[i] : static_cast<int32_t>(i);
    F::dot_token(w, done, whole, x, token, y + i * ldy + (done - begin));
  }
  if (whole < end) narrow(matrix, whole, end, x, tokens, n, y + (whole - begin), ldy);
}

}  // namespace
}  // namespace moebius
