// The exact integer dot of int4 and int8 rows, eight rows side by side: lane i of every vector is row i.
// Only *_avx2.cpp files include this; see rows_avx2.h.
//
// For each group of 32 columns the same four bytes of eight rows are gathered into a vector (a transpose of
// 32-bit words) and multiplied with the matching four activations, broadcast. So sums over a group end up in
// row lanes without horizontal additions, one fma a group updates eight rows, and unpacked weights serve up
// to kTokens tokens.
//
// A format F offers
//   static constexpr int64_t kGroupBytes;                                  // of 32 columns: 16 or 32
//   struct Unpacked;                                                       // of 8 rows x 32 columns
//   static Unpacked unpack(const uint8_t* const* rows, int64_t offset);
//   static void arrange(const int8_t* q, int8_t* arranged);                // 32 activations, as dot reads
//   them static __m256i dot(const Unpacked& w, const int8_t* arranged, int32_t sum);  // exact, sum = that of
//   q
#pragma once

#include "kernels/cpu/rows_avx2.h"

namespace moebius {
namespace {

constexpr int kTokens = 8;
constexpr int64_t kArrangedBytes = 16384;  // of activations, on the stack: half of a first-level cache

static inline __m256i load_two_rows(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

// words[j] lane i = bytes offset + 4j .. offset + 4j + 3 of row i.
static inline void gather_words(const uint8_t* const* rows, int64_t offset, __m256i* words) {
  const __m256i a = load_two_rows(rows[0] + offset, rows[4] + offset);
  const __m256i b = load_two_rows(rows[1] + offset, rows[5] + offset);
  const __m256i c = load_two_rows(rows[2] + offset, rows[6] + offset);
  const __m256i d = load_two_rows(rows[3] + offset, rows[7] + offset);
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

// Eight scales of a row, from `index` on.
static inline __m256 load_scales(const Rows& w, int64_t index) {
  if (w.scale_dtype == DType::kF32)
    return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.scales + index * 4)));
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.scales + index * 2));
  if (w.scale_dtype == DType::kF16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static inline void transpose(const __m256* in, float* out) {
  __m256 a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_ps(in[2 * i], in[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_ps(in[2 * i], in[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
    b[4 * i + 1] = _mm256_shuffle_ps(a[4 * i], a[4 * i + 2], 0xee);
    b[4 * i + 2] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
    b[4 * i + 3] = _mm256_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * 8, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * 8, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
  }
}

// out[(s - first) * 8 + i] = scale s of row index[i] / per_row, s in [first, last).
static inline void gather_scales(const Rows& w, const int64_t* index, int64_t first, int64_t last,
                                 float* out) {
  int64_t s = first;
  for (; s + 8 <= last; s += 8, out += 64) {
    __m256 rows[8];
    for (int i = 0; i < 8; ++i) rows[i] = load_scales(w, index[i] + s);
    transpose(rows, out);
  }
  for (; s < last; ++s, out += 8)
    for (int i = 0; i < 8; ++i) out[i] = scale_at(w, index[i] + s);
}

// Groups [first, last) of the activations of T tokens, arranged, with their scales and sums.
template <int T>
struct Slice {
  const int8_t* q[T];
  const float* scale[T];
  const int32_t* sum[T];
  int64_t first, last;
};

static inline void prefetch(const uint8_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}

// Eight rows at a time are eight short streams, too short for a hardware prefetcher: while a group of these
// rows is multiplied, its share of the cache lines `ahead` bytes on, in the next eight rows, is asked for.
// Into the second level, for the first is full of activations and scales; doubles the speed of int4 from
// memory. A prefetch past the end of the matrix is a wasted one, never a fault.
template <class F>
static inline void prefetch_group(const uint8_t* const* rows, int64_t offset, int64_t ahead) {
  constexpr int64_t kLines = 8 * F::kGroupBytes / 64, kParts = 8 / kLines;
  const int64_t first = offset / F::kGroupBytes % kParts * kLines;
  for (int64_t i = 0; i < kLines; ++i) prefetch(rows[first + i] + offset + ahead);
}

// total[t] += groups of the slice, for eight rows.
template <class F, int T>
static inline void dot_groups(const uint8_t* const* rows, const float* scales, int64_t groups_per_scale,
                              const Slice<T>& x, int64_t first, int64_t last, int64_t offset, int64_t ahead,
                              __m256* total) {
  int64_t left = groups_per_scale - first % groups_per_scale;
  for (int64_t g = first; g < last; ++g, offset += F::kGroupBytes) {
    const typename F::Unpacked w = F::unpack(rows, offset);
    prefetch_group<F>(rows, offset, ahead);
    const __m256 w_scale = _mm256_loadu_ps(scales);
    for (int t = 0; t < T; ++t) {
      const __m256i s = F::dot(w, x.q[t] + (g - x.first) * kActivationGroup, x.sum[t][g]);
      const __m256 scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(x.scale[t][g]));
      total[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, total[t]);
    }
    if (--left == 0) left = groups_per_scale, scales += 8;
  }
}

// Rows r .. r + count - 1, count <= 8; y holds the sums of earlier slices.
template <class F, int T>
static void dot_eight_rows(const Rows& w, int64_t r, int count, const Slice<T>& x, float* const* y) {
  const uint8_t* rows[8];
  int64_t scale_index[8];
  for (int i = 0; i < 8; ++i) {
    const int64_t row = r + (i < count ? i : count - 1);
    rows[i] = w.row(row);
    scale_index[i] = row * w.per_row;
  }
  const int64_t groups_per_scale = w.per_row == 1 ? INT64_MAX : w.group / kActivationGroup;
  alignas(32) float scales[kArrangedBytes / kActivationGroup * 8 / T];
  gather_scales(w, scale_index, x.first / groups_per_scale, (x.last - 1) / groups_per_scale + 1, scales);

  const int64_t scale_bytes = w.scale_dtype == DType::kF32 ? 4 : 2;
  const uint8_t* next_scales = w.scales + (scale_index[0] + 8 * w.per_row) * scale_bytes;
  for (int64_t at = 0; at < 8 * w.per_row * scale_bytes; at += 64) prefetch(next_scales + at);

  const __m256i mask = first_lanes(count);
  __m256 total[T];
  for (int t = 0; t < T; ++t) total[t] = x.first == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(y[t], mask);
  const int64_t whole_groups = w.bytes / F::kGroupBytes < x.last ? w.bytes / F::kGroupBytes : x.last;
  dot_groups<F, T>(rows, scales, groups_per_scale, x, x.first, whole_groups, x.first * F::kGroupBytes,
                   8 * w.bytes, total);
  if (whole_groups < x.last) {  // the row ends within this group
    alignas(32) uint8_t padded[8][F::kGroupBytes] = {};
    const int64_t at = whole_groups * F::kGroupBytes;
    for (int i = 0; i < 8; ++i) {
      std::memcpy(padded[i], rows[i] + at, static_cast<size_t>(w.bytes - at));
      rows[i] = padded[i];
    }
    const float* scale = scales + (whole_groups / groups_per_scale - x.first / groups_per_scale) * 8;
    dot_groups<F, T>(rows, scale, groups_per_scale, x, whole_groups, x.last, 0, 0, total);
  }
  for (int t = 0; t < T; ++t) _mm256_maskstore_ps(y[t], mask, total[t]);
}

template <class F, int T>
static void dot_quantized(const Rows& w, int64_t begin, int64_t end, const Activations& x,
                          const int32_t* tokens, int64_t first_token, float* y, int64_t ldy) {
  constexpr int64_t kSliceGroups = kArrangedBytes / kActivationGroup / T;
  alignas(32) int8_t arranged[T][kSliceGroups * kActivationGroup];
  const int64_t groups = (w.cols + kActivationGroup - 1) / kActivationGroup;
  Slice<T> slice;
  float* out[T];
  const int8_t* q[T];
  for (int t = 0; t < T; ++t) {
    const int64_t i = first_token + t, token = tokens ? tokens[i] : i;
    q[t] = x.q + token * groups * kActivationGroup;
    slice.q[t] = arranged[t];
    slice.scale[t] = x.scale + token * groups;
    slice.sum[t] = x.sum + token * groups;
    out[t] = y + i * ldy;
  }
  for (slice.first = 0; slice.first < groups; slice.first = slice.last) {
    slice.last = slice.first + kSliceGroups < groups ? slice.first + kSliceGroups : groups;
    for (int t = 0; t < T; ++t)
      for (int64_t g = slice.first; g < slice.last; ++g)
        F::arrange(q[t] + g * kActivationGroup, arranged[t] + (g - slice.first) * kActivationGroup);
    for (int64_t r = begin; r < end; r += 8) {
      float* at[T];
      for (int t = 0; t < T; ++t) at[t] = out[t] + (r - begin);
      dot_eight_rows<F, T>(w, r, end - r < 8 ? static_cast<int>(end - r) : 8, slice, at);
    }
  }
}

template <class F>
static void dot_rows_int(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy) {
  if (!x.q || matrix.cols == 0) return dot_rows<F>(matrix, begin, end, x, tokens, n, y, ldy);
  const Rows w(matrix);
  using Dot =
      void (*)(const Rows&, int64_t, int64_t, const Activations&, const int32_t*, int64_t, float*, int64_t);
  static constexpr Dot kDots[kTokens] = {dot_quantized<F, 1>, dot_quantized<F, 2>, dot_quantized<F, 3>,
                                         dot_quantized<F, 4>, dot_quantized<F, 5>, dot_quantized<F, 6>,
                                         dot_quantized<F, 7>, dot_quantized<F, 8>};
  for (int64_t i = 0; i < n; i += kTokens)
    kDots[n - i < kTokens ? n - i - 1 : kTokens - 1](w, begin, end, x, tokens, i, y, ldy);
}

}  // namespace
}  // namespace moebius
