// The inner loops of attention over BF16 rows by AMX: as tile_bf16_avx512.cpp has them, queries and softmax
// weights rounded to BF16, but sixteen rows by sixteen keys, or columns, a product. (The instruction of
// AVX-512 for BF16 is no faster on these processors than float32.)
#include <immintrin.h>

#include "kernels/cpu/tile.h"
#include "kernels/cpu/tiles_amx.h"
#include "kernels/cpu/turn_avx512.h"

namespace moebius {
namespace {

constexpr int64_t kPairs = 32;  // numbers of a tile's row of BF16
constexpr int64_t kTileNumbers = kAmxRows * kPairs;

static inline __m512i round_numbers(const float* from, __mmask32 mask) {
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from),
               high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// to[pair][row][2] = 32 numbers of up to sixteen rows from c on, rounded; zeros for rows that are not there.
static inline void turn_queries(const float* const* a, int64_t rows, int64_t c, uint16_t* to) {
  alignas(64) uint16_t rounded[kAmxRows][kPairs];
  for (int64_t i = 0; i < kAmxRows; ++i)
    _mm512_store_si512(rounded[i],
                       i < rows ? round_numbers(a[i] + c, ~__mmask32{0}) : _mm512_setzero_si512());
  for (int64_t pair = 0; pair < kPairs / 2; pair += 4) {
    __m512i words[4];
    gather_wide(reinterpret_cast<const uint8_t*>(rounded[0] + 2 * pair), kAmxBytes, words);
    for (int i = 0; i < 4; ++i, to += kPairs) _mm512_store_si512(to, words[i]);
  }
}

// Bytes from each of `count` rows to the next, or 0 where that differs.
static inline int64_t common_stride(const uint16_t* const* rows, int64_t count) {
  if (count == 1) return kAmxBytes;
  const int64_t stride = rows[1] - rows[0];
  for (int64_t j = 2; j < count; ++j)
    if (rows[j] - rows[j - 1] != stride) return 0;
  return stride * static_cast<int64_t>(sizeof(uint16_t));
}

// scores[key][row] of `steps` times 32 numbers; tiles: kC and kA have as many rows as there are keys.
template <int kC, int kA>
static inline void score_keys(const uint16_t* keys, int64_t stride, const uint16_t* queries, int64_t steps,
                              int64_t work, ReadAhead& ahead, float* scores) {
  zero_tile<kC>();
  for (int64_t s = 0; s < steps; ++s) {
    load_tile<kA>(keys + s * kPairs, stride);
    load_tile<2>(queries + s * kTileNumbers, kAmxBytes);
    add_bf16_product<kC, kA, 2>();
    ahead.step(work);
  }
  store_tile<kC>(scores, kAmxBytes);
}

// 32 columns times a factor, as unpacking leaves them: `low` gets the first four of every eight.
static inline void part_columns(const float* from, float factor, float* low, float* high) {
  const __m512i fours = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  const __m512 first = _mm512_loadu_ps(from), second = _mm512_loadu_ps(from + 16);
  const auto part = [&](float* to, __m512i order) {
    _mm512_store_ps(to, _mm512_mul_ps(_mm512_permutex2var_ps(first, order, second), _mm512_set1_ps(factor)));
  };
  part(low, fours), part(high, _mm512_add_epi32(fours, _mm512_set1_epi32(4)));
}

static inline void join_columns(const float* low, const float* high, float* to) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512 l = _mm512_load_ps(low), h = _mm512_load_ps(high);
  _mm512_storeu_ps(to, _mm512_permutex2var_ps(l, first, h));
  _mm512_storeu_ps(to + 16, _mm512_permutex2var_ps(l, _mm512_add_epi32(first, _mm512_set1_epi32(8)), h));
}

}  // namespace

void dots_rounded_amx(const float* const* a, int64_t rows, const uint16_t* const* b, int64_t count,
                      int64_t dim, float* out, int64_t ld, ReadAhead& ahead) {
  if (count == 0) return;
  const int64_t steps = dim / kPairs, last = count % kAmxRows;
  alignas(64) uint16_t queries[kMostBf16Columns / kPairs * kTileNumbers], copy[kAmxRows * kMostBf16Columns];
  for (int64_t s = 0; s < steps; ++s) turn_queries(a, rows, s * kPairs, queries + s * kTileNumbers);
  const TileShapes shapes(
      {{16, 64}, {16, 64}, {16, 64}, {last, last ? 64 : 0}, {last, last ? 64 : 0}, {}, {}, {}});
  for (int64_t j = 0; j < count; j += kAmxRows) {
    const int64_t keys = std::min(kAmxRows, count - j);
    const uint16_t* at = b[j];
    int64_t stride = common_stride(b + j, keys);
    if (stride == 0) {
      for (int64_t i = 0; i < keys; ++i)
        __builtin_memcpy(copy + i * dim, b[j + i], static_cast<size_t>(2 * dim));
      at = copy, stride = 2 * dim;
    }
    alignas(64) float scores[kAmxRows][kAmxRows] = {};
    (keys == kAmxRows ? score_keys<0, 1> : score_keys<3, 4>)(at, stride, queries, steps, rows * keys * kPairs,
                                                             ahead, scores[0]);
    for (int64_t r = 0; r < rows; r += 4) {
      __m512i words[4];
      gather_wide(reinterpret_cast<const uint8_t*>(scores[0] + r), kAmxBytes, words);
      const auto mask = static_cast<__mmask16>((1u << keys) - 1);
      for (int64_t i = 0; i < 4 && r + i < rows; ++i)
        _mm512_mask_storeu_epi32(out + (r + i) * ld + j, mask, words[i]);
    }
  }
}

void accumulate_rounded_amx(float* const* acc, const float* keep, int64_t rows, const float* p,
                            const uint16_t* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  constexpr int64_t kMostPairs = kTile / 2;
  alignas(64) uint16_t weights[kAmxRows][kTile] = {}, turned[2][kMostPairs][kPairs];
  alignas(64) float sums[2][kAmxRows][kAmxRows] = {};
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < count; j += kPairs) {
      const int64_t left = count - j;
      const __mmask32 mask =
          left < kPairs ? static_cast<__mmask32>((uint32_t{1} << left) - 1) : ~__mmask32{0};
      _mm512_store_si512(weights[i] + j, round_numbers(p + i * kTile + j, mask));
    }
  const int64_t pairs = (count + kPairs - 1) / kPairs * (kPairs / 2);
  constexpr TileShapes::Shape kWhole = {kAmxRows, kAmxBytes};
  const TileShapes shapes({kWhole, kWhole, kWhole, kWhole, kWhole, kWhole, {}, {}});
  load_tile<4>(weights[0], sizeof weights[0]);
  load_tile<5>(weights[0] + kPairs, sizeof weights[0]);
  for (int64_t column = 0; column < dim; column += kPairs) {
    for (int64_t k = 0; k < pairs; ++k) {
      const __m512i zero = _mm512_setzero_si512();
      const __m512i v = 2 * k < count ? _mm512_loadu_si512(values[2 * k] + column) : zero;
      const __m512i w = 2 * k + 1 < count ? _mm512_loadu_si512(values[2 * k + 1] + column) : zero;
      _mm512_store_si512(turned[0][k], _mm512_unpacklo_epi16(v, w));
      _mm512_store_si512(turned[1][k], _mm512_unpackhi_epi16(v, w));
    }
    for (int64_t i = 0; i < rows; ++i) part_columns(acc[i] + column, keep[i], sums[0][i], sums[1][i]);
    load_tile<0>(sums[0], kAmxBytes), load_tile<1>(sums[1], kAmxBytes);
    load_tile<2>(turned[0][0], kAmxBytes), load_tile<3>(turned[1][0], kAmxBytes);
    add_bf16_product<0, 4, 2>(), add_bf16_product<1, 4, 3>();
    if (pairs > kAmxRows) {
      load_tile<2>(turned[0][kAmxRows], kAmxBytes), load_tile<3>(turned[1][kAmxRows], kAmxBytes);
      add_bf16_product<0, 5, 2>(), add_bf16_product<1, 5, 3>();
    }
    store_tile<0>(sums[0], kAmxBytes), store_tile<1>(sums[1], kAmxBytes);
    ahead.step(rows * count * kPairs);
    for (int64_t i = 0; i < rows; ++i) join_columns(sums[0][i], sums[1][i], acc[i] + column);
  }
}

}  // namespace moebius
