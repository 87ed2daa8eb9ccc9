// Rows times tokens in parts (kernels/rows.h) by AMX. Only *_amx.cpp files include this; all of it has
// internal linkage, for the reason that rows_avx2.h gives.
//
// Thirty-two rows stay while all tokens pass, thirty-two at a time: for 32 columns the two tiles of rows meet
// the six of the tokens' parts, in twelve products. Where another scale begins, sums leave the tiles and are
// added, times their scale, to totals. The order of sums for a (row, token) does not depend on other ones.
//
// A format F offers
//   static constexpr int64_t kScaledRows, kScaledColumns;  // that share a scale: multiples of 32
//   static float scale(const Rows& w, int64_t r, int64_t c);
//   static constexpr int64_t kSlice;  // columns that are made ready at once, a multiple of kScaledColumns
//   struct Slice {                    // columns [begin, end) of `count` rows from r on, in BF16
//     Slice(const Rows& w, int64_t r, int64_t count, int64_t begin, int64_t end);
//     const uint8_t* rows;
//     int64_t stride;  // bytes
//   };
#pragma once

#include <algorithm>

#include "kernels/cpu/rows_view_avx2.h"
#include "kernels/cpu/tiles_amx.h"
#include "kernels/cpu/turn_avx512.h"
#include "kernels/rows.h"

namespace moebius {
namespace {

constexpr int64_t kMostTokens = 64;  // that pass while rows stay
constexpr int64_t kPartNumbers = kPartColumns * kPartTokens;

using Block = float[kAmxRows][kPartTokens];  // sixteen rows, sixteen tokens

static TileShapes whole_tiles() {
  constexpr TileShapes::Shape kWhole = {kAmxRows, kAmxBytes};
  return TileShapes({kWhole, kWhole, kWhole, kWhole, kWhole, kWhole, kWhole, kWhole});
}

// sums [R][T] of 16 R rows, `stride` bytes apart, and 16 T tokens, `block` numbers apart, over steps of 32
// columns.
template <int R, int T>
static void multiply(const uint8_t* rows, int64_t stride, const uint16_t* parts, int64_t block, int64_t steps,
                     Block* sums) {
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  for (int64_t s = 0; s < steps; ++s, rows += kAmxBytes) {
    load_tile<4>(rows, stride);
    if (R > 1) load_tile<5>(rows + kAmxRows * stride, stride);
    for (int p = 0; p < kParts; ++p, parts += kPartNumbers) {
      load_tile<6>(parts, kAmxBytes);
      if (T > 1) load_tile<7>(parts + block, kAmxBytes);
      add_bf16_product<0, 4, 6>();
      if (T > 1) add_bf16_product<1, 4, 7>();
      if (R > 1) add_bf16_product<2, 5, 6>();
      if (R > 1 && T > 1) add_bf16_product<3, 5, 7>();
    }
  }
  store_tile<0>(sums[0], kAmxBytes);
  if (T > 1) store_tile<1>(sums[1], kAmxBytes);
  if (R > 1) store_tile<2>(sums[2], kAmxBytes);
  if (R > 1 && T > 1) store_tile<3>(sums[3], kAmxBytes);
}
using Multiply = decltype(&multiply<1, 1>);
constexpr Multiply kMultiply[2][2] = {{multiply<1, 1>, multiply<1, 2>}, {multiply<2, 1>, multiply<2, 2>}};

static inline void add_block(const Block& sums, float scale, Block& total) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int i = 0; i < kAmxRows; ++i)
    _mm512_store_ps(total[i], _mm512_fmadd_ps(_mm512_load_ps(sums[i]), factor, _mm512_load_ps(total[i])));
}

// y[t * ldy + r] = total[r][t] for the first `tokens`.
static inline void turn_block(const Block& total, int64_t tokens, float* y, int64_t ldy) {
  for (int64_t t = 0; t < tokens; t += 4) {
    __m512i words[4];
    gather_wide(reinterpret_cast<const uint8_t*>(total[0] + t), kAmxBytes, words);
    for (int64_t i = 0; i < 4 && t + i < tokens; ++i) _mm512_storeu_si512(y + (t + i) * ldy, words[i]);
  }
}

// Rows r .. r + 16 R - 1, which share their scales.
template <class F>
static void dot_tile_rows(const Rows& w, int64_t r, int R, const uint16_t* parts, int64_t n, float* y,
                          int64_t ldy) {
  const int64_t block = parts_block(w.cols), blocks = (n + kPartTokens - 1) / kPartTokens;
  alignas(64) Block total[kMostTokens / kPartTokens][2] = {}, sums[4];
  for (int64_t begin = 0; begin < w.cols; begin += std::min(F::kSlice, w.cols)) {
    const int64_t end = begin + std::min(F::kSlice, w.cols - begin);
    const typename F::Slice slice(w, r, R * kAmxRows, begin, end);
    for (int64_t t = 0; t < blocks; t += 2) {
      const int T = t + 1 < blocks ? 2 : 1;
      for (int64_t c = begin; c < end; c += std::min(F::kScaledColumns, end - c)) {
        const int64_t steps = std::min(F::kScaledColumns, end - c) / kPartColumns;
        kMultiply[R - 1][T - 1](slice.rows + 2 * (c - begin), slice.stride,
                                parts + t * block + c / kPartColumns * kParts * kPartNumbers, block, steps,
                                sums);
        for (int i = 0; i < R; ++i)
          for (int j = 0; j < T; ++j) add_block(sums[2 * i + j], F::scale(w, r, c), total[t + j][i]);
      }
    }
  }
  for (int64_t t = 0; t < blocks; ++t)
    for (int i = 0; i < R; ++i)
      turn_block(total[t][i], std::min(kPartTokens, n - t * kPartTokens),
                 y + t * kPartTokens * ldy + i * kAmxRows, ldy);
}

template <class F>
static void dot_by_parts(const Matrix& matrix, int64_t begin, int64_t end, const Activations& x,
                         const int32_t* tokens, int64_t n, float* y, int64_t ldy,
                         decltype(FormatKernels::dot_rows) others) {
  const bool by_tiles = x.parts && reads_parts_amx(matrix) && begin % kAmxRows == 0;
  const int64_t whole = by_tiles ? begin + (end - begin) / kAmxRows * kAmxRows : begin;
  if (whole > begin) {
    const Rows w(matrix);
    const TileShapes shapes = whole_tiles();
    for (int64_t t = 0; t < n; t += kMostTokens) {
      const uint16_t* parts = x.parts + t / kPartTokens * parts_block(w.cols);
      for (int64_t r = begin, rows; r < whole; r += rows) {
        rows = std::min(std::min(2 * kAmxRows, whole - r), F::kScaledRows - r % F::kScaledRows);
        dot_tile_rows<F>(w, r, static_cast<int>(rows / kAmxRows), parts, std::min(kMostTokens, n - t),
                         y + t * ldy + (r - begin), ldy);
      }
    }
  }
  if (whole < end) others(matrix, whole, end, x, tokens, n, y + (whole - begin), ldy);
}

}  // namespace
}  // namespace moebius
