// Products of float32 matrices that a backward operation needs beside those with its weights: gradients of
// weights, and of adapters and what goes through their ranks.
#pragma once

#include <algorithm>

#include "kernels/cuda/grad_tile.h"

namespace moebius::cuda {

// C [rows, cols] += factor A B, or = where not added to; sums over k in [k_begin, k_end).
struct FloatProduct {
  FloatView a, b;
  float* c = nullptr;
  int64_t ldc = 0;
  int32_t rows = 0, cols = 0;
  int32_t k_begin = 0, k_end = 0;
  float factor = 1;
  bool add = false;

  __host__ __device__ int32_t column_tiles() const { return (cols + kGradLines - 1) / kGradLines; }
  __host__ __device__ int64_t tiles() const {
    return int64_t{(rows + kGradLines - 1) / kGradLines} * column_tiles();
  }
};

// Where a tile's sums go: each number of C, or of its own part of k, which sum_parts() then adds up.
struct Parts {
  float* at = nullptr;           // [count, rows, cols], null for none
  int32_t count = 1, depth = 0;  // of k, to a part
};

// The parts of k that give every multiprocessor work, when a product has few tiles; each of 128 or more.
inline Parts parts_of(Context& context, int64_t tiles, int64_t depth) {
  constexpr int64_t kLeastDepth = 128, kMostParts = 32;
  Parts parts;
  const int64_t wanted = 2 * int64_t{context.multiprocessors()} / std::max<int64_t>(1, tiles);
  const int64_t count = std::clamp<int64_t>(std::min(wanted, depth / kLeastDepth), 1, kMostParts);
  const int64_t each = blocks_for(blocks_for(depth, count), kGradChunk) * kGradChunk;
  parts.depth = static_cast<int32_t>(each);
  parts.count = static_cast<int32_t>(std::max<int64_t>(1, blocks_for(depth, std::max<int64_t>(1, each))));
  return parts;
}
// False: no memory.
inline bool take_parts(Context& context, int64_t numbers, Parts& parts) {
  if (parts.count == 1) return true;
  parts.at =
      static_cast<float*>(context.scratch(parts.count * numbers * static_cast<int64_t>(sizeof(float))));
  return parts.at != nullptr;
}

__device__ inline void finish_float(const FloatProduct& p, int64_t i, int64_t j, float value) {
  float* to = p.c + i * p.ldc + j;
  *to = p.add ? fmaf(p.factor, value, *to) : p.factor * value;
}

// A tile of a product, or its part of number `part`.
template <Lie A, Lie B>
__device__ void float_product_tile(const FloatProduct& p, const Parts& parts, int64_t tile, int32_t part) {
  const int32_t row = static_cast<int32_t>(tile / p.column_tiles()) * kGradLines;
  const int32_t column = static_cast<int32_t>(tile % p.column_tiles()) * kGradLines;
  Side<FloatView, A> a{p.a, row};
  Side<FloatView, B> b{p.b, column};
  const TileSize size{lines_left(row, p.rows), lines_left(column, p.cols)};
  const int32_t begin = parts.at ? p.k_begin + part * parts.depth : p.k_begin;
  const int32_t end = parts.at && p.k_end - begin > parts.depth ? begin + parts.depth : p.k_end;
  LargeSums sums;
  add_product(a, b, begin, end, size, 0, sums);
  MOEBIUS_UNROLL
  for (int s = 0; s < 16; ++s) {
    const int i = LargeSums::row(s), j = LargeSums::token(s);
    if (i >= size.a || j >= size.b) continue;
    if (parts.at)
      parts.at[(int64_t{part} * p.rows + row + i) * p.cols + column + j] = sums[s];
    else
      finish_float(p, row + i, column + j, sums[s]);
  }
}

// p += or = product on the stream; no memory for parts: nothing, which the context knows.
void float_product(Context& context, Lie a, Lie b, const FloatProduct& p);
// Adds up the parts of a product, ascending.
void sum_parts(Context& context, const FloatProduct& p, const Parts& parts);

}  // namespace moebius::cuda
