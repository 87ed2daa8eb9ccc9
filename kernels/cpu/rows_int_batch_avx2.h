// Several tokens times int4 or int8 rows. Only files for these instruction sets include this; see
// rows_int_avx2.h.
//
// For each group of 32 columns the same four bytes of eight rows are gathered into a vector (a transpose of
// 32-bit words) and multiplied with the matching four activations, broadcast. So sums over a group end up in
// row lanes without horizontal additions, one fma a group updates eight rows, and unpacked weights serve up
// to kTokens tokens.
//
// A format F offers
//   static constexpr int64_t kGroupBytes;   // of 32 columns: 16 or 32
//   static constexpr int32_t kDotOffset;    // times the sum of q, what dot's result is too large by
//   struct Unpacked;                                                // of 8 rows x 32 columns
//   static Unpacked unpack(const EightRows& rows, int64_t offset);
//   static void arrange(const int8_t* q, int8_t* arranged);         // 32 activations, as dot reads them
//   static __m256i dot(const Unpacked& w, const int8_t* arranged);  // exact
#pragma once

#include "kernels/cpu/rows_int_avx2.h"

namespace moebius {
namespace {

constexpr int kTokens = 8;
constexpr int64_t kBatchGroups = 88;  // 2,816 columns, whose activations about fill the first-level cache

// words[j] lane i = bytes 4j .. 4j + 3 of row i, from `offset` on.
static inline void gather_words(const EightRows& rows, int64_t offset, __m256i* words) {
  const uint8_t* low = rows.data + offset;
  const uint8_t* high = low + 4 * rows.stride;
  const int64_t two = 2 * rows.stride, three = 3 * rows.stride;
  const __m256i a = load_two(low, high), b = load_two(low + rows.stride, high + rows.stride);
  const __m256i c = load_two(low + two, high + two), d = load_two(low + three, high + three);
  const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
  const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
  words[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
  words[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
  words[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
  words[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

static inline __m256i four_activations(const int8_t* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

// Groups [first, last) of T tokens.
template <int T>
struct BatchSlice {
  alignas(32) int8_t q[T][kBatchGroups * kActivationGroup];
  int32_t start[T][kBatchGroups];  // of a group's sum: minus what the offset of codes adds
  float scale[T][kBatchGroups];
  int64_t first, last;

  template <class F>
  void fill(const Activations& x, const int64_t* token, int64_t groups, int64_t begin) {
    first = begin, last = begin + kBatchGroups < groups ? begin + kBatchGroups : groups;
    for (int t = 0; t < T; ++t) {
      const int64_t at = token[t] * groups + first;
      for (int64_t g = 0; g < last - first; ++g) {
        F::arrange(x.q + (at + g) * kActivationGroup, q[t] + g * kActivationGroup);
        start[t][g] = -F::kDotOffset * x.sum[at + g];
        scale[t][g] = x.scale[at + g];
      }
    }
  }
};

// total[t] += groups [g, end) of the slice, for eight rows that are read from `offset` on.
template <class F, int T>
static inline void dot_groups(const EightRows& rows, int64_t offset, const BatchSlice<T>& x, int64_t g,
                              int64_t end, const float* scales, BlocksAhead& ahead, __m256* total) {
  for (; g < end; ++g, offset += F::kGroupBytes) {
    const typename F::Unpacked w = F::unpack(rows, offset);
    for (int64_t i = 0; i < 8 * F::kGroupBytes; i += 64) ahead.line();
    ahead.scales();
    const __m256 w_scale = _mm256_load_ps(scales + 8 * g);
    for (int t = 0; t < T; ++t) {
      const __m256i dot = F::dot(w, x.q[t] + g * kActivationGroup);
      const __m256 s = _mm256_cvtepi32_ps(_mm256_add_epi32(dot, _mm256_set1_epi32(x.start[t][g])));
      total[t] = _mm256_fmadd_ps(s, _mm256_mul_ps(w_scale, _mm256_set1_ps(x.scale[t][g])), total[t]);
    }
  }
}

// The slice's part of eight rows, of which the first `count` are wanted; y holds that of earlier slices.
template <class F, int T>
static void dot_eight_rows(const EightRows& rows, int64_t bytes, int count, const BatchSlice<T>& x,
                           const float* scales, BlocksAhead ahead, float* const* y) {
  const __m256i mask = first_lanes(count);
  __m256 total[T];
  for (int t = 0; t < T; ++t) total[t] = x.first == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(y[t], mask);
  const int64_t from = x.first * F::kGroupBytes, count_of_groups = x.last - x.first;
  const int64_t in_row = (bytes - from) / F::kGroupBytes;
  const int64_t whole = in_row < count_of_groups ? in_row : count_of_groups;
  dot_groups<F, T>(rows, from, x, 0, whole, scales, ahead, total);
  if (whole < count_of_groups) {  // the row ends within this group
    uint8_t padded[8][F::kGroupBytes] = {};
    const int64_t at = from + whole * F::kGroupBytes;
    for (int i = 0; i < 8; ++i) std::memcpy(padded[i], rows.row(i) + at, static_cast<size_t>(bytes - at));
    const EightRows copy{padded[0], nullptr, F::kGroupBytes, 0};
    dot_groups<F, T>(copy, 0, x, whole, count_of_groups, scales, ahead, total);
  }
  for (int t = 0; t < T; ++t) _mm256_maskstore_ps(y[t], mask, total[t]);
}

template <class F, int T>
static void dot_batch(const Rows& w, int64_t begin, int64_t end, const Activations& x, const int32_t* tokens,
                      int64_t first_token, float* y, int64_t ldy) {
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  float* out[T];
  int64_t token[T];
  for (int t = 0; t < T; ++t) {
    token[t] = tokens ? tokens[first_token + t] : first_token + t;
    out[t] = y + (first_token + t) * ldy;
  }
  BatchSlice<T> slice;
  for (int64_t first = 0; first < groups; first += kBatchGroups) {
    slice.template fill<F>(x, token, groups, first);
    for (int64_t r = begin; r < end;) {
      const int count = r + 8 <= end ? 8 : 1;  // the last ones row by row, in eight lanes that do the same
      const EightRows rows = eight_rows(w, r, count == 1);
      alignas(32) float scales[kBatchGroups * 8];
      spread_scales(w, rows, slice.first, slice.last, scales);
      float* at[T];
      for (int t = 0; t < T; ++t) at[t] = out[t] + (r - begin);
      const BlocksAhead ahead(w, r, 8, slice.first * F::kGroupBytes, slice.last * F::kGroupBytes);
      dot_eight_rows<F, T>(rows, w.bytes, count, slice, scales, ahead, at);
      r += count;
    }
  }
}

}  // namespace
}  // namespace moebius
