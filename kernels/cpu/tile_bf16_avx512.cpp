// The inner loops of attention over BF16 rows for processors that multiply BF16: twice as many products an
// instruction as in float32. Queries and softmax weights are rounded to BF16 for it, as models that were
// trained in BF16 round them; products and sums stay float32, but that the instruction takes what is below
// 2^-126 for 0.
#include <immintrin.h>

#include <type_traits>

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/tile.h"

namespace moebius {
namespace {

constexpr int64_t kPairs = 32;  // numbers of a vector of BF16

inline __mmask32 first_numbers(int64_t count) {
  return count < kPairs ? static_cast<__mmask32>((uint32_t{1} << count) - 1) : ~__mmask32{0};
}
inline __mmask16 low_half(__mmask32 mask) { return static_cast<__mmask16>(mask); }
inline __mmask16 high_half(__mmask32 mask) { return static_cast<__mmask16>(mask >> 16); }

inline __m512bh bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

// Rounded to nearest, ties to even; to holds a multiple of 32, zeros behind the last.
void round_row(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i += kPairs) {
    const __mmask32 mask = first_numbers(count - i);
    const __m512 low = _mm512_maskz_loadu_ps(low_half(mask), from + i),
                 high = _mm512_maskz_loadu_ps(high_half(mask), from + i + 16);
    _mm512_store_si512(to + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

// R rows of a, rounded and `width` apart, against K of b; always in the same order for a dot product.
template <int R, int K>
inline void dots_block(const uint16_t* a, int64_t width, const uint16_t* const* b, int64_t dim, float* out,
                       int64_t ld, ReadAhead& ahead) {
  __m512 sum[R][K];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) sum[i][j] = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t c, __mmask32 mask) {
    __m512bh y[K];
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) y[j] = bf16(_mm512_maskz_loadu_epi16(mask, b[j] + c));
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m512bh x = bf16(_mm512_load_si512(a + i * width + c));
      MOEBIUS_UNROLL
      for (int j = 0; j < K; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, y[j]);
    }
  };
  int64_t c = 0;
  for (; c + kPairs <= dim; c += kPairs) {
    ahead.step(R * K * kPairs);
    add(c, ~__mmask32{0});
  }
  if (c < dim) add(c, first_numbers(dim - c));
  store_sums(sum, out, ld);
}

// K keys, which stay in the first-level cache, against all rows.
template <int K>
void dots_keys(const uint16_t* a, int64_t width, int64_t rows, const uint16_t* const* b, int64_t dim,
               float* out, int64_t ld, ReadAhead& ahead) {
  by_blocks_of_rows(rows, [&]<int R>(std::integral_constant<int, R>, int64_t r) {
    dots_block<R, K>(a + r * width, width, b, dim, out + r * ld, ld, ahead);
  });
}

// Sums of R rows for 32 columns, of which the mask's are there. Two positions at a time: a 32-bit lane has a
// column's values of both, and unpacking puts columns 0 .. 3 of every eight into one register, 4 .. 7 into
// the other.
template <int R>
inline void accumulate_block(float* const* acc, const float* keep, const uint16_t* p,
                             const uint16_t* const* values, int64_t count, int64_t column, __mmask32 mask,
                             ReadAhead& ahead) {
  __m512 low[R], high[R];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    const __m512 factor = _mm512_set1_ps(keep[i]);
    const __m512 first = _mm512_mul_ps(_mm512_maskz_loadu_ps(low_half(mask), acc[i] + column), factor);
    const __m512 second = _mm512_mul_ps(_mm512_maskz_loadu_ps(high_half(mask), acc[i] + column + 16), factor);
    low[i] = _mm512_shuffle_f32x4(first, second, _MM_SHUFFLE(2, 0, 2, 0));
    high[i] = _mm512_shuffle_f32x4(first, second, _MM_SHUFFLE(3, 1, 3, 1));
  }
  for (int64_t j = 0; j < count; j += 2) {
    ahead.step(R * 2 * kPairs);
    const __m512i v = _mm512_maskz_loadu_epi16(mask, values[j] + column);
    const __m512i w =
        j + 1 < count ? _mm512_maskz_loadu_epi16(mask, values[j + 1] + column) : _mm512_setzero_si512();
    const __m512bh left = bf16(_mm512_unpacklo_epi16(v, w)), right = bf16(_mm512_unpackhi_epi16(v, w));
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, p + i * kTile + j, sizeof pair);
      const __m512bh weights = bf16(_mm512_set1_epi32(pair));
      low[i] = _mm512_dpbf16_ps(low[i], weights, left);
      high[i] = _mm512_dpbf16_ps(high[i], weights, right);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    const __m512 first = _mm512_shuffle_f32x4(low[i], high[i], _MM_SHUFFLE(1, 0, 1, 0)),
                 second = _mm512_shuffle_f32x4(low[i], high[i], _MM_SHUFFLE(3, 2, 3, 2));
    constexpr int kInOrder = _MM_SHUFFLE(3, 1, 2, 0);
    _mm512_mask_storeu_ps(acc[i] + column, low_half(mask), _mm512_shuffle_f32x4(first, first, kInOrder));
    _mm512_mask_storeu_ps(acc[i] + column + 16, high_half(mask),
                          _mm512_shuffle_f32x4(second, second, kInOrder));
  }
}

}  // namespace

void dots_rounded_avx512(const float* const* a, int64_t rows, const uint16_t* const* b, int64_t count,
                         int64_t dim, float* out, int64_t ld, ReadAhead& ahead) {
  if (count == 0) return;
  alignas(64) uint16_t rounded[kTileRows * (kMostBf16Columns + kPairs)];
  // An odd number of lines, so that rows do not meet in a few sets of the cache.
  const int64_t width = ((dim + kPairs - 1) / kPairs | 1) * kPairs;
  for (int64_t i = 0; i < rows; ++i) round_row(a[i], dim, rounded + i * width);
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) dots_keys<4>(rounded, width, rows, b + j, dim, out + j, ld, ahead);
  for (; j + 2 <= count; j += 2) dots_keys<2>(rounded, width, rows, b + j, dim, out + j, ld, ahead);
  if (j < count) dots_keys<1>(rounded, width, rows, b + j, dim, out + j, ld, ahead);
}

void accumulate_rounded_avx512(float* const* acc, const float* keep, int64_t rows, const float* p,
                               const uint16_t* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  alignas(64) uint16_t rounded[kTileRows * kTile];
  for (int64_t i = 0; i < rows; ++i) round_row(p + i * kTile, count, rounded + i * kTile);
  for (int64_t column = 0; column < dim; column += kPairs) {
    const __mmask32 mask = first_numbers(dim - column);
    int64_t r = 0;
    const auto walk = [&]<int R>(std::integral_constant<int, R>) {
      for (; r + R <= rows; r += R)
        accumulate_block<R>(acc + r, keep + r, rounded + r * kTile, values, count, column, mask, ahead);
    };
    walk(std::integral_constant<int, 8>());
    walk(std::integral_constant<int, 4>());
    walk(std::integral_constant<int, 2>());
    walk(std::integral_constant<int, 1>());
  }
}

}  // namespace moebius
