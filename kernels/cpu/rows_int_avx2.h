// What the AVX2 kernels of int4 and int8 rows share: rows eight at a time, lane i of a vector being row i.
// Only files for these instruction sets include this; see rows_avx2.h.
#pragma once

#include "kernels/cpu/rows_avx2.h"

namespace moebius {
namespace {

static inline __m256i load_bytes(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}

// Eight rows, `stride` apart; 0 for eight times the same row.
struct EightRows {
  const uint8_t* data;
  const uint8_t* scales;
  int64_t stride, scale_stride;
  const uint8_t* row(int i) const { return data + i * stride; }
};

static inline EightRows eight_rows(const Rows& w, int64_t r, bool same) {
  return {w.row(r), w.scales + r * scale_bytes(w), same ? 0 : w.bytes, same ? 0 : scale_bytes(w)};
}

static inline int64_t groups_per_scale(const Rows& w) {
  return w.per_row == 1 ? INT64_MAX : w.group / kActivationGroup;
}

static inline __m256i load_two(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

// Eight 16-bit scales of eight rows: out[step * s + i] = scale s of row i.
static inline void transpose_scales(const uint8_t* at, int64_t stride, bool f16, float* out, int64_t step) {
  __m256i rows[4];
  for (int i = 0; i < 4; ++i) rows[i] = load_two(at + i * stride, at + (i + 4) * stride);
  const __m256i low01 = _mm256_unpacklo_epi16(rows[0], rows[1]),
                high01 = _mm256_unpackhi_epi16(rows[0], rows[1]);
  const __m256i low23 = _mm256_unpacklo_epi16(rows[2], rows[3]),
                high23 = _mm256_unpackhi_epi16(rows[2], rows[3]);
  // Scales 2p of rows 0 to 3, scales 2p + 1 of them; the same of rows 4 to 7.
  const __m256i pairs[4] = {_mm256_unpacklo_epi32(low01, low23), _mm256_unpackhi_epi32(low01, low23),
                            _mm256_unpacklo_epi32(high01, high23), _mm256_unpackhi_epi32(high01, high23)};
  for (int p = 0; p < 4; ++p) {
    __m256 even, odd;
    if (f16) {
      const __m256i sorted = _mm256_permute4x64_epi64(pairs[p], 0xd8);
      even = _mm256_cvtph_ps(_mm256_castsi256_si128(sorted));
      odd = _mm256_cvtph_ps(_mm256_extracti128_si256(sorted, 1));
    } else {
      even = _mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), pairs[p]));
      odd = _mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), pairs[p]));
    }
    _mm256_store_ps(out + 2 * p * step, even);
    _mm256_store_ps(out + (2 * p + 1) * step, odd);
  }
}

static inline float scale_of(const Rows& w, const uint8_t* scales, int64_t index) {
  if (w.scale_dtype == DType::kF32) {
    float value;
    std::memcpy(&value, scales + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, scales + index * 2, 2);
  if (w.scale_dtype == DType::kF16) return _cvtsh_ss(bits);
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits) << 16)));
}

// out[step * (g - first) + i] = scale of group g of row i, g in [first, last); out aligned to 32.
static inline void spread_scales(const Rows& w, const EightRows& rows, int64_t first, int64_t last,
                                 float* out, int64_t step = 8) {
  const int64_t per_scale = groups_per_scale(w);
  int64_t g = first;
  if (per_scale == 1 && w.scale_dtype != DType::kF32 && last - first >= 8) {
    const auto eight = [&](int64_t at, float* to) {
      transpose_scales(rows.scales + at * 2, rows.scale_stride, w.scale_dtype == DType::kF16, to, step);
    };
    for (; g + 8 <= last; g += 8, out += 8 * step) eight(g, out);
    if (g < last) eight(last - 8, out - (8 - (last - g)) * step);  // some of them once more
    return;
  }
  while (g < last) {
    const int64_t scale = g / per_scale;
    const int64_t end = per_scale < last && (scale + 1) * per_scale < last ? (scale + 1) * per_scale : last;
    __m256 values;
    alignas(32) float of_row[8];
    for (int i = 0; i < 8; ++i) of_row[i] = scale_of(w, rows.scales + i * rows.scale_stride, scale);
    for (values = _mm256_load_ps(of_row); g < end; ++g, out += step) _mm256_store_ps(out, values);
  }
}

// 32 activations, even columns first, as nibbles split by a shift meet them.
static inline __m256i even_then_odd(const int8_t* q) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8,
                                         10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(load_bytes(q), order), 0xd8);
}

}  // namespace
}  // namespace moebius
