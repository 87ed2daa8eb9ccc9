// The inner loops of attention for AVX-512: blocks of rows and keys, or rows and columns, that fill its 32
// registers.
#include <immintrin.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/tile.h"

namespace moebius {
namespace {

constexpr int64_t kLanes = 16;

// Sixteen numbers in float32, as they lie in a cache: those of the mask, the others 0.
inline __m512 load(const float* at) { return _mm512_loadu_ps(at); }
inline __m512 load(const float* at, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, at); }
inline __m512 widen(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}
inline __m512 load(const uint16_t* at) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
inline __m512 load(const uint16_t* at, __mmask16 lanes) { return widen(_mm256_maskz_loadu_epi16(lanes, at)); }

inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

// R rows of a against K of b. The order within one dot product is that of sum_lanes over lanes that each add
// every sixteenth product, whatever R and K are.
template <int R, int K, class T>
inline void dots_block(const float* const* a, const T* const* b, int64_t dim, float* out, int64_t ld,
                       ReadAhead& ahead) {
  __m512 sum[R][K];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) sum[i][j] = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t c, auto... lanes) {
    __m512 y[K];
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) y[j] = load(b[j] + c, lanes...);
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m512 x = load(a[i] + c, lanes...);
      MOEBIUS_UNROLL
      for (int j = 0; j < K; ++j) sum[i][j] = _mm512_fmadd_ps(x, y[j], sum[i][j]);
    }
  };
  int64_t c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    ahead.step(R * K * kLanes);
    add(c);
  }
  if (c < dim) add(c, first_lanes(dim - c));
  store_sums(sum, out, ld);
}

template <int R, class T>
void dots_rows(const float* const* a, const T* const* b, int64_t count, int64_t dim, float* out, int64_t ld,
               ReadAhead& ahead) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) dots_block<R, 4>(a, b + j, dim, out + j, ld, ahead);
  for (; j + 2 <= count; j += 2) dots_block<R, 2>(a, b + j, dim, out + j, ld, ahead);
  if (j < count) dots_block<R, 1>(a, b + j, dim, out + j, ld, ahead);
}

template <class T>
void dots_avx512(const float* const* a, int64_t rows, const T* const* b, int64_t count, int64_t dim,
                 float* out, int64_t ld, ReadAhead& ahead) {
  by_blocks_of_rows(rows, [&]<int R>(std::integral_constant<int, R>, int64_t r) {
    dots_rows<R>(a + r, b, count, dim, out + r * ld, ld, ahead);
  });
}

// R rows of a against C vectors of columns of b.
template <int R, int C>
inline void products_block(const float* const* a, const float* b, int64_t dim, float* out, int64_t ld) {
  __m512 sum[R][C];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) sum[i][k] = _mm512_setzero_ps();
  }
  for (int64_t c = 0; c < dim; ++c) {
    __m512 v[C];
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) v[k] = _mm512_loadu_ps(b + c * kTile + k * kLanes);
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m512 factor = _mm512_set1_ps(a[i][c]);
      MOEBIUS_UNROLL
      for (int k = 0; k < C; ++k) sum[i][k] = _mm512_fmadd_ps(factor, v[k], sum[i][k]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) _mm512_storeu_ps(out + i * ld + k * kLanes, sum[i][k]);
  }
}

template <int R>
void products_rows(const float* const* a, const float* b, int64_t vectors, int64_t dim, float* out,
                   int64_t ld) {
  if (vectors == 4) products_block<R, 4>(a, b, dim, out, ld);
  if (vectors == 3) products_block<R, 3>(a, b, dim, out, ld);
  if (vectors == 2) products_block<R, 2>(a, b, dim, out, ld);
  if (vectors == 1) products_block<R, 1>(a, b, dim, out, ld);
}

void products_avx512(const float* const* a, int64_t rows, const float* b, int64_t count, int64_t dim,
                     float* out, int64_t ld) {
  const int64_t vectors = (count + kLanes - 1) / kLanes;
  for (; rows >= 4; rows -= 4, a += 4, out += 4 * ld) products_rows<4>(a, b, vectors, dim, out, ld);
  if (rows == 3) products_rows<3>(a, b, vectors, dim, out, ld);
  if (rows == 2) products_rows<2>(a, b, vectors, dim, out, ld);
  if (rows == 1) products_rows<1>(a, b, vectors, dim, out, ld);
}

// C vectors of columns of R rows. With a mask, the last of them is cut short.
template <int R, int C, class T>
inline void accumulate_block(float* const* acc, const float* keep, const float* p, const T* const* values,
                             int64_t count, int64_t column, __mmask16 last, ReadAhead& ahead) {
  const auto mask = [last](int c) { return c == C - 1 ? last : static_cast<__mmask16>(0xffff); };
  __m512 sum[R][C];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c)
      sum[i][c] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(c), acc[i] + column + c * kLanes),
                                _mm512_set1_ps(keep[i]));
  }
  for (int64_t j = 0; j < count; ++j) {
    ahead.step(R * C * kLanes);
    __m512 v[C];
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c) v[c] = load(values[j] + column + c * kLanes, mask(c));
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m512 weight = _mm512_set1_ps(p[i * kTile + j]);
      MOEBIUS_UNROLL
      for (int c = 0; c < C; ++c) sum[i][c] = _mm512_fmadd_ps(weight, v[c], sum[i][c]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c) _mm512_mask_storeu_ps(acc[i] + column + c * kLanes, mask(c), sum[i][c]);
  }
}

template <int R, int C, class T>
void accumulate_rows(float* const* acc, const float* keep, const float* p, const T* const* values,
                     int64_t count, int64_t dim, ReadAhead& ahead) {
  int64_t column = 0;
  for (; column + C * kLanes <= dim; column += C * kLanes)
    accumulate_block<R, C>(acc, keep, p, values, count, column, 0xffff, ahead);
  for (; column + kLanes <= dim; column += kLanes)
    accumulate_block<R, 1>(acc, keep, p, values, count, column, 0xffff, ahead);
  if (column < dim)
    accumulate_block<R, 1>(acc, keep, p, values, count, column, first_lanes(dim - column), ahead);
}

template <class T>
void accumulate_avx512(float* const* acc, const float* keep, int64_t rows, const float* p,
                       const T* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  const auto walk = [&]<int R, int C>(std::integral_constant<int, R>, std::integral_constant<int, C>) {
    while (rows >= R) {
      accumulate_rows<R, C>(acc, keep, p, values, count, dim, ahead);
      rows -= R, acc += R, keep += R, p += R * kTile;
    }
  };
  walk(std::integral_constant<int, 16>(), std::integral_constant<int, 1>());
  walk(std::integral_constant<int, 8>(), std::integral_constant<int, 2>());
  walk(std::integral_constant<int, 4>(), std::integral_constant<int, 4>());
  walk(std::integral_constant<int, 2>(), std::integral_constant<int, 4>());
  if (rows > 0) accumulate_rows<1, 4>(acc, keep, p, values, count, dim, ahead);
}

// As exp_avx2, but that one instruction multiplies by 2^n.
inline __m512 exp_avx512(__m512 x) {
  // The operand order of min and max lets a NaN in x through.
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
  __m512 e = _mm512_set1_ps(1.0f / 5040);
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    e = _mm512_fmadd_ps(e, r, _mm512_set1_ps(term));
  return _mm512_scalef_ps(e, n);
}

float softmax_avx512(float* scores, int64_t count, float scale, float* highest, float* sum) {
  constexpr int64_t kVectors = kTile / kLanes;
  const __m512 factor = _mm512_set1_ps(scale);
  const float before = *highest;
  __m512 x[kVectors], top = _mm512_set1_ps(before);
  __mmask16 lanes[kVectors];
  MOEBIUS_UNROLL
  for (int64_t v = 0; v < kVectors; ++v) {
    lanes[v] = first_lanes(std::clamp<int64_t>(count - v * kLanes, 0, kLanes));
    x[v] = _mm512_mul_ps(_mm512_loadu_ps(scores + v * kLanes), factor);
    top = _mm512_mask_max_ps(top, lanes[v], x[v], top);
  }
  const float highest_now = _mm512_reduce_max_ps(top);
  top = _mm512_set1_ps(highest_now);
  __m512 added = _mm512_setzero_ps();
  MOEBIUS_UNROLL
  for (int64_t v = 0; v < kVectors; ++v) {
    const __m512 p = exp_avx512(_mm512_sub_ps(x[v], top));
    _mm512_storeu_ps(scores + v * kLanes, p);
    added = _mm512_mask_add_ps(added, lanes[v], added, p);
  }
  const float keep = _mm512_cvtss_f32(exp_avx512(_mm512_set1_ps(before - highest_now)));
  *highest = highest_now;
  *sum = *sum * keep + _mm_cvtss_f32(sum_lanes(added, added, added, added));
  return keep;
}

void widen_avx512(const uint16_t* bf16, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = count - i < kLanes ? first_lanes(count - i) : static_cast<__mmask16>(0xffff);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, bf16 + i));
    _mm512_mask_storeu_ps(out + i, lanes, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
  }
}

}  // namespace

const TileKernels kTileAvx512 = {
    dots_avx512<float>, products_avx512,  softmax_avx512,        accumulate_avx512<float>,
    widen_avx512,       scale_codes_avx2, dots_avx512<uint16_t>, accumulate_avx512<uint16_t>};

}  // namespace moebius
