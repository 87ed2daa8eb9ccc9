// One token times int4 or int8 rows: decode. Only files for these instruction sets include this; see
// rows_int_avx2.h.
//
// Rows are read 32 bytes at a time where they lie, so that activations, arranged once for all rows, need no
// broadcasts; the partial sums of eight rows, not their weights, are then transposed while they are added up.
// From memory this goes as fast as rows are fetched: eight at a time are eight streams, too short for a
// hardware prefetcher, so while a line of a row is multiplied, those of rows further on are asked for, into
// the second level.
//
// A format F offers
//   static constexpr int64_t kUnitGroups;  // groups in 32 bytes of a row
//   static constexpr int32_t kOffset;      // that codes are stored with
//   static void arrange_unit(const int8_t* q, int8_t* arranged);  // 64 bytes of them
//   static void sum_unit(const uint8_t* rows, int64_t stride, const int8_t* arranged, __m256i* sums);
//       // sums[g] lane i = codes of group g of row i times activations, exact
#pragma once

#include "kernels/cpu/rows_int_avx2.h"

namespace moebius {
namespace {

// Groups of columns in one go, for what belongs to them lies on the stack: 16,384 columns.
constexpr int64_t kTokenGroups = 512;

template <class F>
struct TokenSlice {  // groups [first, last) of one token
  static constexpr int64_t kUnits = kTokenGroups / F::kUnitGroups;
  alignas(64) int8_t q[kUnits * 64];
  int32_t offset[kTokenGroups];  // that codes add to a group's sum
  float scale[kTokenGroups];
  int64_t first, last;

  TokenSlice(const Activations& x, int64_t token, int64_t groups, int64_t begin)
      : first(begin), last(begin + kTokenGroups < groups ? begin + kTokenGroups : groups) {
    constexpr int64_t kUnitBytes = F::kUnitGroups * kActivationGroup;
    const int8_t* from = x.q + (token * groups + first) * kActivationGroup;
    const int64_t bytes = (last - first) * kActivationGroup;
    int8_t* to = q;
    for (int64_t at = 0; at < bytes; at += kUnitBytes, to += 64) {
      if (at + kUnitBytes <= bytes) {
        F::arrange_unit(from + at, to);
      } else {
        int8_t padded[kUnitBytes] = {};
        std::memcpy(padded, from + at, static_cast<size_t>(bytes - at));
        F::arrange_unit(padded, to);
      }
    }
    for (int64_t g = 0; g < last - first; ++g) {
      offset[g] = F::kOffset * x.sum[token * groups + first + g];
      scale[g] = x.scale[token * groups + first + g];
    }
  }
};

static inline __m256 add_group(__m256i sums, int32_t offset, const float* w_scale, float x_scale,
                               __m256 total) {
  const __m256 s = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(offset)));
  return _mm256_fmadd_ps(s, _mm256_mul_ps(_mm256_load_ps(w_scale), _mm256_set1_ps(x_scale)), total);
}

// total + the groups of the slice, of eight rows. bytes: of a row.
template <class F>
static inline __m256 dot_slice(const EightRows& rows, int64_t bytes, const TokenSlice<F>& x,
                               const float* scales, BlocksAhead ahead, __m256 total) {
  constexpr int64_t kUnit = 32;
  const int64_t from = x.first / F::kUnitGroups * kUnit;
  const int64_t in_row = (bytes - from) / kUnit, in_slice = (x.last - x.first) / F::kUnitGroups;
  const int64_t units = in_row < in_slice ? in_row : in_slice;
  const uint8_t* at = rows.data + from;
  int64_t g = 0;  // within the slice
  for (int64_t u = 0; u < units; ++u, at += kUnit) {
    __m256i sums[F::kUnitGroups];
    F::sum_unit(at, rows.stride, x.q + u * 64, sums);
    for (int i = 0; i < 4; ++i) ahead.line();  // a unit is half of a line
    if (u % 2 == 0) ahead.scales();
    for (int j = 0; j < F::kUnitGroups; ++j, ++g)
      total = add_group(sums[j], x.offset[g], scales + 8 * g, x.scale[g], total);
  }
  if (g < x.last - x.first) {  // the row ends within this unit
    uint8_t padded[8][kUnit] = {};
    for (int i = 0; i < 8; ++i)
      std::memcpy(padded[i], rows.row(i) + from + units * kUnit,
                  static_cast<size_t>(bytes - from - units * kUnit));
    __m256i sums[F::kUnitGroups];
    F::sum_unit(padded[0], kUnit, x.q + units * 64, sums);
    for (int j = 0; g < x.last - x.first; ++j, ++g)
      total = add_group(sums[j], x.offset[g], scales + 8 * g, x.scale[g], total);
  }
  return total;
}

// y[r - begin], r in [begin, end).
template <class F>
static void dot_token(const Rows& w, int64_t begin, int64_t end, const Activations& x, int64_t token,
                      float* y) {
  constexpr int64_t kGroupBytes = 32 / F::kUnitGroups;
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  for (int64_t first = 0; first < groups; first += kTokenGroups) {
    const TokenSlice<F> slice(x, token, groups, first);
    for (int64_t r = begin; r < end;) {
      const bool whole = r + 8 <= end;  // else row by row, in eight lanes that do the same
      const EightRows rows = eight_rows(w, r, !whole);
      alignas(32) float scales[kTokenGroups * 8];
      spread_scales(w, rows, slice.first, slice.last, scales);
      float* out = y + (r - begin);
      const __m256i mask = first_lanes(whole ? 8 : 1);
      const __m256 total = first == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(out, mask);
      const BlocksAhead ahead(w, r, 8, slice.first * kGroupBytes, slice.last * kGroupBytes);
      _mm256_maskstore_ps(out, mask, dot_slice<F>(rows, w.bytes, slice, scales, ahead, total));
      r += whole ? 8 : 1;
    }
  }
}

}  // namespace
}  // namespace moebius
