// AVX-512 VNNI dots of int4 and int8 rows. Only files for it include this; all of it has internal
// linkage, for the reason that rows_avx2.h gives. The ways are those of rows_int_token_avx2.h and
// rows_int_batch_avx2.h, on registers twice as wide; vpdpbusd takes codes as they are, unsigned, and what
// their offset adds is where its sums start from, or is taken from them.
//
// A format F offers
//   static void dot_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
//                         float* y);  // y[r - begin], r in [begin, end): a multiple of sixteen rows
//   kGroupBytes, kDotOffset, arrange as in rows_int_batch_avx2.h
//   static void unpack(const __m512i* words, __m512i* codes);  // 8 of them, in the order of arrange
//
// and for dot_wide_token
//   static constexpr int64_t kUnitGroups;   // groups in 64 bytes of a row: even
//   static constexpr int64_t kUnitBytes;    // of arranged activations of these
//   static void arrange_unit(const int8_t* q, int8_t* arranged);
//   static __m512i row_sums(const uint8_t* row, const int8_t* arranged);
//       // 16 / kUnitGroups numbers for each group: their sum is the group's and what the offset adds; two of
//       // them fit 16 bits
//   static void join(__m512i low, __m512i high, __m512i* sums);
//       // of rows 0 .. 3 and 4 .. 7, four lanes for four rows: sums[p] = groups 2p, 2p + 1 of eight rows
#pragma once

#include "kernels/cpu/rows_int_batch_avx2.h"
#include "kernels/cpu/turn_avx512.h"

namespace moebius {
namespace {

constexpr int64_t kWideGroups = 512;  // of a token in one go

static inline __m512i load_wide(const void* at) { return _mm512_loadu_si512(at); }

template <class F>
struct WideSlice {  // groups [first, last) of one token
  alignas(64) int8_t q[kWideGroups / F::kUnitGroups * F::kUnitBytes];
  alignas(64) int32_t offset[kWideGroups * 8 + 8];  // what codes' offset adds to a group's sum, eight times
  alignas(64) float scale[kWideGroups * 8 + 8];     // eight times
  int64_t first, last;

  WideSlice(const Activations& x, int64_t token, int64_t groups, int64_t begin)
      : first(begin), last(begin + kWideGroups < groups ? begin + kWideGroups : groups) {
    constexpr int64_t kColumns = F::kUnitGroups * kActivationGroup;
    const int8_t* from = x.q + (token * groups + first) * kActivationGroup;
    const int64_t columns = (last - first) * kActivationGroup;
    int8_t* to = q;
    for (int64_t at = 0; at < columns; at += kColumns, to += F::kUnitBytes) {
      int8_t padded[kColumns] = {};
      if (at + kColumns > columns) std::memcpy(padded, from + at, static_cast<size_t>(columns - at));
      F::arrange_unit(at + kColumns > columns ? padded : from + at, to);
    }
    for (int64_t g = 0; g < last - first; ++g) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(offset + g * 8),
                         _mm256_set1_epi32(F::kDotOffset * x.sum[token * groups + first + g]));
      _mm256_store_ps(scale + g * 8, _mm256_set1_ps(x.scale[token * groups + first + g]));
    }
  }
};

static inline __m512i add_pairs(__m512i a, __m512i b) {
  return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
}

// Lane i of each quarter: the sum of that quarter of row i.
static inline __m512i four_rows(__m512i a, __m512i b, __m512i c, __m512i d) {
  return add_pairs(add_pairs(a, b), add_pairs(c, d));
}

template <class F>
static inline void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* q, BlocksAhead& ahead,
                            __m512i* sums) {
  __m512i of_row[8];
  MOEBIUS_UNROLL
  for (int i = 0; i < 8; ++i, rows += stride) {
    ahead.line();
    of_row[i] = F::row_sums(rows, q);
  }
  F::join(four_rows(of_row[0], of_row[1], of_row[2], of_row[3]),
          four_rows(of_row[4], of_row[5], of_row[6], of_row[7]), sums);
}

// total + groups g and g + 1 of the slice, the second one only if `both`.
template <class F>
static inline __m256 add_two_groups(__m512i sums, const WideSlice<F>& x, const float* w_scale, int64_t g,
                                    bool both, __m256 total) {
  const __m512 s = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, load_wide(x.offset + 8 * g)));
  const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(w_scale + 8 * g), _mm512_loadu_ps(x.scale + 8 * g));
  total = _mm256_fmadd_ps(_mm512_castps512_ps256(s), _mm512_castps512_ps256(scale), total);
  if (both) total = _mm256_fmadd_ps(_mm512_extractf32x8_ps(s, 1), _mm512_extractf32x8_ps(scale, 1), total);
  return total;
}

// total + the groups of the slice, of eight rows. bytes: of a row; end: of all rows.
template <class F>
static inline __m256 dot_wide_slice(const EightRows& rows, int64_t bytes, const uint8_t* end,
                                    const WideSlice<F>& x, const float* scales, BlocksAhead ahead,
                                    __m256 total) {
  constexpr int64_t kUnit = 64, kGroups = F::kUnitGroups;
  const int64_t from = x.first / kGroups * kUnit, count = x.last - x.first;
  const int64_t in_row = (bytes - from) / kUnit, in_slice = count / kGroups;
  const int64_t units = in_row < in_slice ? in_row : in_slice;
  const uint8_t* at = rows.data + from;
  int64_t g = 0;
  for (int64_t u = 0; u < units; ++u, at += kUnit) {
    __m512i sums[kGroups / 2];
    sum_unit<F>(at, rows.stride, x.q + u * F::kUnitBytes, ahead, sums);
    ahead.scales();
    for (int j = 0; j < kGroups / 2; ++j, g += 2) total = add_two_groups(sums[j], x, scales, g, true, total);
  }
  if (g < count) {  // the row, or the slice, ends within this unit; what lies behind meets activations of 0
    uint8_t padded[8][kUnit];
    int64_t stride = rows.stride;
    if (at + 7 * stride + kUnit > end) {
      std::memset(padded, 0, sizeof padded);
      for (int i = 0; i < 8; ++i)
        std::memcpy(padded[i], at + i * stride, static_cast<size_t>(bytes - from - units * kUnit));
      at = padded[0], stride = kUnit;
    }
    __m512i sums[kGroups / 2];
    sum_unit<F>(at, stride, x.q + units * F::kUnitBytes, ahead, sums);
    for (int j = 0; g < count; ++j, g += 2)
      total = add_two_groups(sums[j], x, scales, g, g + 1 < count, total);
  }
  return total;
}

// y[r - begin], r in [begin, end): a multiple of eight rows.
template <class F>
static void dot_wide_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
                           float* y) {
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  for (int64_t first = 0; first < groups; first += kWideGroups) {
    const WideSlice<F> slice(x, token, groups, first);
    for (int64_t r = begin; r < end; r += 8) {
      const EightRows rows = eight_rows(w, r, false);
      alignas(64) float scales[kWideGroups * 8 + 8];
      spread_scales(w, rows, slice.first, slice.last, scales);
      float* out = y + (r - begin);
      const __m256 total = first == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(out);
      const BlocksAhead ahead(w, r, 8, slice.first * F::kGroupBytes, slice.last * F::kGroupBytes);
      _mm256_storeu_ps(out, dot_wide_slice<F>(rows, w.bytes, w.row(w.rows), slice, scales, ahead, total));
    }
  }
}

// total[t] += groups [g, end) of the slice, for sixteen rows that start at `at`, `stride` apart.
template <class F, int T>
static inline void dot_wide_groups(const uint8_t* at, int64_t stride, const BatchSlice<T>& x, int64_t g,
                                   int64_t end, const float* scales, BlocksAhead& ahead, __m512* total) {
  for (; g < end; ++g, at += F::kGroupBytes) {
    __m512i words[F::kGroupBytes / 4], codes[8];
    for (int64_t i = 0; i < F::kGroupBytes; i += 16) gather_wide(at + i, stride, words + i / 4);
    F::unpack(words, codes);
    for (int64_t i = 0; i < 16 * F::kGroupBytes; i += 64) ahead.line();
    ahead.scales();
    const __m512 w_scale = _mm512_load_ps(scales + 16 * g);
    for (int t = 0; t < T; ++t) {
      __m512i sums[2] = {_mm512_set1_epi32(x.start[t][g]), _mm512_setzero_si512()};
      for (int j = 0; j < 8; ++j) {
        int32_t word;
        std::memcpy(&word, x.q[t] + g * kActivationGroup + 4 * j, 4);
        sums[j % 2] = _mm512_dpbusd_epi32(sums[j % 2], codes[j], _mm512_set1_epi32(word));
      }
      const __m512 s = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
      total[t] = _mm512_fmadd_ps(s, _mm512_mul_ps(w_scale, _mm512_set1_ps(x.scale[t][g])), total[t]);
    }
  }
}

template <class F, int T>
static void dot_sixteen_rows(const Rows& w, int64_t r, const BatchSlice<T>& x, float* const* y) {
  alignas(64) float scales[kBatchGroups * 16];
  for (int half = 0; half < 2; ++half) {
    const EightRows rows = eight_rows(w, r + 8 * half, false);
    spread_scales(w, rows, x.first, x.last, scales + 8 * half, 16);
  }
  __m512 total[T];
  for (int t = 0; t < T; ++t) total[t] = x.first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(y[t]);
  const int64_t from = x.first * F::kGroupBytes, count = x.last - x.first;
  const int64_t in_row = (w.bytes - from) / F::kGroupBytes, whole = in_row < count ? in_row : count;
  const uint8_t* rows = w.row(r);
  BlocksAhead ahead(w, r, 16, from, from + count * F::kGroupBytes);
  dot_wide_groups<F, T>(rows + from, w.bytes, x, 0, whole, scales, ahead, total);
  if (whole < count) {  // the row ends within this group
    uint8_t padded[16][F::kGroupBytes] = {};
    const int64_t at = from + whole * F::kGroupBytes;
    for (int i = 0; i < 16; ++i)
      std::memcpy(padded[i], rows + i * w.bytes + at, static_cast<size_t>(w.bytes - at));
    dot_wide_groups<F, T>(padded[0], F::kGroupBytes, x, whole, count, scales, ahead, total);
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(y[t], total[t]);
}

// Rows [begin, end): a multiple of sixteen.
template <class F, int T>
static void dot_wide_batch(const Rows& w, int64_t begin, int64_t end, const Activations& x,
                           const int32_t* tokens, int64_t first_token, float* y, int64_t ldy) {
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  int64_t token[T];
  for (int t = 0; t < T; ++t) token[t] = tokens ? tokens[first_token + t] : first_token + t;
  BatchSlice<T> slice;
  for (int64_t first = 0; first < groups; first += kBatchGroups) {
    slice.template fill<F>(x, token, groups, first);
    for (int64_t r = begin; r < end; r += 16) {
      float* at[T];
      for (int t = 0; t < T; ++t) at[t] = y + (first_token + t) * ldy + (r - begin);
      dot_sixteen_rows<F, T>(w, r, slice, at);
    }
  }
}

}  // namespace
}  // namespace moebius
