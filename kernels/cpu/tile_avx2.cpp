#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/tile.h"

namespace moebius {
namespace {

// Before a loop over the rows or columns of a block: unless it is unrolled early, GCC keeps the block's sums
// in memory and stores them after every step (44 instead of 107 GFLOP/s on one core).
#define MOEBIUS_UNROLL _Pragma("GCC unroll 8")

// R rows of a against K of b. The order within one dot product is that of sum_lanes over lanes that each add
// every eighth product, whatever R and K are.
template <int R, int K>
inline void dots_block(const float* const* a, const float* const* b, int64_t dim, float* out, int64_t ld,
                       ReadAhead& ahead) {
  __m256 sum[R][K];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) sum[i][j] = _mm256_setzero_ps();
  }
  const auto add = [&](int64_t c, auto load) {
    __m256 y[K];
    MOEBIUS_UNROLL
    for (int j = 0; j < K; ++j) y[j] = load(b[j] + c);
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m256 x = load(a[i] + c);
      MOEBIUS_UNROLL
      for (int j = 0; j < K; ++j) sum[i][j] = _mm256_fmadd_ps(x, y[j], sum[i][j]);
    }
  };
  int64_t c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    ahead.step(R * K * kLanes);
    add(c, [](const float* at) { return _mm256_loadu_ps(at); });
  }
  const __m256i lanes = first_lanes(dim - c);
  if (c < dim) add(c, [lanes](const float* at) { return _mm256_maskload_ps(at, lanes); });
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    const __m128 sums = sum_lanes(sum[i][0], sum[i][K > 1], sum[i][K - 1], sum[i][K - 1]);
    if (K > 1) _mm_storel_pi(reinterpret_cast<__m64*>(out + i * ld), sums);
    if (K != 2) _mm_store_ss(out + i * ld + K - 1, _mm_movehl_ps(sums, sums));
  }
}

template <int R>
inline void dots_rows(const float* const* a, const float* const* b, int64_t count, int64_t dim, float* out,
                      int64_t ld, ReadAhead& ahead) {
  int64_t j = 0;
  for (; j + 3 <= count; j += 3) dots_block<R, 3>(a, b + j, dim, out + j, ld, ahead);
  if (count - j == 2) dots_block<R, 2>(a, b + j, dim, out + j, ld, ahead);
  if (count - j == 1) dots_block<R, 1>(a, b + j, dim, out + j, ld, ahead);
}

void dots_avx2(const float* const* a, int64_t rows, const float* const* b, int64_t count, int64_t dim,
               float* out, int64_t ld, ReadAhead& ahead) {
  for (; rows >= 4; rows -= 4, a += 4, out += 4 * ld) dots_rows<4>(a, b, count, dim, out, ld, ahead);
  if (rows == 3) dots_rows<3>(a, b, count, dim, out, ld, ahead);
  if (rows == 2) dots_rows<2>(a, b, count, dim, out, ld, ahead);
  if (rows == 1) dots_rows<1>(a, b, count, dim, out, ld, ahead);
}

// R rows of a against C vectors of columns of b.
template <int R, int C>
inline void products_block(const float* const* a, const float* b, int64_t dim, float* out, int64_t ld) {
  __m256 sum[R][C];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) sum[i][k] = _mm256_setzero_ps();
  }
  for (int64_t c = 0; c < dim; ++c) {
    __m256 v[C];
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) v[k] = _mm256_loadu_ps(b + c * kTile + k * kLanes);
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m256 factor = _mm256_broadcast_ss(a[i] + c);
      MOEBIUS_UNROLL
      for (int k = 0; k < C; ++k) sum[i][k] = _mm256_fmadd_ps(factor, v[k], sum[i][k]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int k = 0; k < C; ++k) _mm256_storeu_ps(out + i * ld + k * kLanes, sum[i][k]);
  }
}

template <int R>
inline void products_rows(const float* const* a, const float* b, int64_t vectors, int64_t dim, float* out,
                          int64_t ld) {
  int64_t column = 0;
  for (; vectors >= 5 || vectors == 3; vectors -= 3, column += 3 * kLanes)
    products_block<R, 3>(a, b + column, dim, out + column, ld);
  for (; vectors >= 2; vectors -= 2, column += 2 * kLanes)
    products_block<R, 2>(a, b + column, dim, out + column, ld);
  if (vectors == 1) products_block<R, 1>(a, b + column, dim, out + column, ld);
}

void products_avx2(const float* const* a, int64_t rows, const float* b, int64_t count, int64_t dim,
                   float* out, int64_t ld) {
  const int64_t vectors = (count + kLanes - 1) / kLanes;
  for (; rows >= 4; rows -= 4, a += 4, out += 4 * ld) products_rows<4>(a, b, vectors, dim, out, ld);
  if (rows == 3) products_rows<3>(a, b, vectors, dim, out, ld);
  if (rows == 2) products_rows<2>(a, b, vectors, dim, out, ld);
  if (rows == 1) products_rows<1>(a, b, vectors, dim, out, ld);
}

// C vectors of columns of R rows, read and written by load and store.
template <int R, int C, class Load, class Store>
inline void accumulate_block(float* const* acc, const float* keep, const float* p, const float* const* values,
                             int64_t count, int64_t column, const Load& load, const Store& store) {
  __m256 sum[R][C];
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c)
      sum[i][c] = _mm256_mul_ps(load(acc[i] + column + c * kLanes), _mm256_set1_ps(keep[i]));
  }
  for (int64_t j = 0; j < count; ++j) {
    __m256 v[C];
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c) v[c] = load(values[j] + column + c * kLanes);
    MOEBIUS_UNROLL
    for (int i = 0; i < R; ++i) {
      const __m256 weight = _mm256_broadcast_ss(p + i * kTile + j);
      MOEBIUS_UNROLL
      for (int c = 0; c < C; ++c) sum[i][c] = _mm256_fmadd_ps(weight, v[c], sum[i][c]);
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < R; ++i) {
    MOEBIUS_UNROLL
    for (int c = 0; c < C; ++c) store(acc[i] + column + c * kLanes, sum[i][c]);
  }
}

template <int R, int C>
inline void accumulate_full(float* const* acc, const float* keep, const float* p, const float* const* values,
                            int64_t count, int64_t column) {
  accumulate_block<R, C>(
      acc, keep, p, values, count, column, [](const float* at) { return _mm256_loadu_ps(at); },
      [](float* at, __m256 x) { _mm256_storeu_ps(at, x); });
}

template <int R>
void accumulate_rows(float* const* acc, const float* keep, const float* p, const float* const* values,
                     int64_t count, int64_t dim, ReadAhead& ahead) {
  int64_t column = 0, vectors = dim / kLanes;
  for (; vectors >= 5 || vectors == 3; vectors -= 3, column += 3 * kLanes) {
    ahead.step(R * 3 * kLanes * count);
    accumulate_full<R, 3>(acc, keep, p, values, count, column);
  }
  for (; vectors >= 2; vectors -= 2, column += 2 * kLanes)
    accumulate_full<R, 2>(acc, keep, p, values, count, column);
  for (; vectors >= 1; --vectors, column += kLanes)
    accumulate_full<R, 1>(acc, keep, p, values, count, column);
  if (column == dim) return;
  const __m256i lanes = first_lanes(dim - column);
  accumulate_block<R, 1>(
      acc, keep, p, values, count, column, [lanes](const float* at) { return _mm256_maskload_ps(at, lanes); },
      [lanes](float* at, __m256 x) { _mm256_maskstore_ps(at, lanes, x); });
}

void accumulate_avx2(float* const* acc, const float* keep, int64_t rows, const float* p,
                     const float* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  for (; rows > 4; rows -= 4, acc += 4, keep += 4, p += 4 * kTile)
    accumulate_rows<4>(acc, keep, p, values, count, dim, ahead);
  if (rows == 4) accumulate_rows<4>(acc, keep, p, values, count, dim, ahead);
  if (rows == 3) accumulate_rows<3>(acc, keep, p, values, count, dim, ahead);
  if (rows == 2) accumulate_rows<2>(acc, keep, p, values, count, dim, ahead);
  if (rows == 1) accumulate_rows<1>(acc, keep, p, values, count, dim, ahead);
}

void widen_avx2(const uint16_t* bf16, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16 + i));
    _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16)));
  }
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(bf16[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof(bits));
  }
}

}  // namespace

float softmax_avx2(float* scores, int64_t count, float scale, float* highest, float* sum) {
  const float before = *highest;
  const __m256 factor = _mm256_set1_ps(scale);
  const int64_t whole = count / kLanes * kLanes;
  const __m256 last = _mm256_castsi256_ps(first_lanes(count - whole));
  __m256 top = _mm256_set1_ps(before);
  for (int64_t j = 0; j < count; j += kLanes) {
    const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(scores + j), factor);
    _mm256_storeu_ps(scores + j, x);
    top = _mm256_max_ps(j < whole ? x : _mm256_blendv_ps(top, x, last), top);
  }
  const float highest_now = max_lanes(top);
  top = _mm256_set1_ps(highest_now);
  __m256 added = _mm256_setzero_ps();
  for (int64_t j = 0; j < count; j += kLanes) {
    const __m256 p = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(scores + j), top));
    _mm256_storeu_ps(scores + j, p);
    added = _mm256_add_ps(added, j < whole ? p : _mm256_and_ps(p, last));
  }
  const float keep = _mm256_cvtss_f32(exp_avx2(_mm256_set1_ps(before - highest_now)));
  *highest = highest_now;
  *sum = *sum * keep + sum_lanes(added);
  return keep;
}

void scale_codes_avx2(const int8_t* codes, int64_t count, uint16_t scale, float* out) {
  const uint32_t bits = static_cast<uint32_t>(scale) << 16;
  float factor;
  __builtin_memcpy(&factor, &bits, sizeof factor);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
    _mm256_storeu_ps(out + i,
                     _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)), _mm256_set1_ps(factor)));
  }
  for (; i < count; ++i) out[i] = static_cast<float>(codes[i]) * factor;
}

const TileKernels kTileAvx2 = {dots_avx2,       products_avx2, softmax_avx2,
                               accumulate_avx2, widen_avx2,    scale_codes_avx2};

}  // namespace moebius
