// Cached rows as float32, a tile at a time.
#pragma once

#include <algorithm>

#include "kernels/cpu/tile.h"
#include "kernels/ops.h"

namespace moebius {

// body(j, row of position begin + j) for j in [0, count): a division a call, not two a row.
template <class Body>
inline void for_each_cached_row(const CacheView& cache, int64_t begin, int64_t count, const Body& body) {
  const int64_t row_bytes = cache.row_bytes();
  for (int64_t j = 0, in_page; j < count; j += in_page) {
    in_page = std::min(count - j, cache.page_tokens - (begin + j) % cache.page_tokens);
    const char* row = static_cast<const char*>(cache.row(begin + j));
    for (int64_t i = 0; i < in_page; ++i) body(j + i, row + i * row_bytes);
  }
}

// Columns [column, column + dim) of a kI8 row.
inline void scale_row(const TileKernels& kernels, const CacheView& cache, const char* row, int64_t column,
                      int64_t dim, float* out) {
  const char* scales = row + cache_scales_at(cache.width);
  for (int64_t c = column, count; c < column + dim; c += count) {
    count = std::min(column + dim, (c / kCacheGroup + 1) * kCacheGroup) - c;
    kernels.scale_codes(reinterpret_cast<const int8_t*>(row) + c, count,
                        load_unaligned<uint16_t>(scales, c / kCacheGroup), out + c - column);
  }
}

// The tile's row of position begin + j, j in [0, count): columns [column, column + dim) in place where the
// cache is float32, else widened into store [count, dim].
inline void wide_rows(const TileKernels& kernels, const CacheView& cache, int64_t begin, int64_t count,
                      int64_t column, int64_t dim, float* store, const float** rows) {
  for_each_cached_row(cache, begin, count, [&](int64_t j, const char* row) {
    if (cache.dtype == DType::kF32) {
      rows[j] = reinterpret_cast<const float*>(row) + column;
      return;
    }
    if (cache.dtype == DType::kI8)
      scale_row(kernels, cache, row, column, dim, store + j * dim);
    else
      kernels.widen(reinterpret_cast<const uint16_t*>(row) + column, dim, store + j * dim);
    rows[j] = store + j * dim;
  });
}

// The same, or BF16 as it lies where the kernels read that.
inline void tile_rows(const TileKernels& kernels, const CacheView& cache, int64_t begin, int64_t count,
                      int64_t column, int64_t dim, float* store, TileRows& rows) {
  rows.narrow = cache.dtype == DType::kBF16 && kernels.dots_bf16;
  if (!rows.narrow) return wide_rows(kernels, cache, begin, count, column, dim, store, rows.wide);
  for_each_cached_row(cache, begin, count, [&](int64_t j, const char* row) {
    rows.bf16[j] = reinterpret_cast<const uint16_t*>(row) + column;
  });
}

// The same rows, to be asked for.
inline void read_ahead(const CacheView& cache, int64_t begin, int64_t count, int64_t column, int64_t dim,
                       ReadAhead& ahead) {
  const int64_t bytes = static_cast<int64_t>(dtype_bytes(cache.dtype));
  for_each_cached_row(cache, begin, count,
                      [&](int64_t, const char* row) { ahead.add(row + column * bytes, dim * bytes); });
}

}  // namespace moebius
