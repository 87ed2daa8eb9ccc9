// Cached rows as float32, a tile at a time.
#pragma once

#include "kernels/cpu/tile.h"
#include "kernels/ops.h"

namespace moebius {

// rows[j] = columns [column, column + dim) of position begin + j in float32, j in [0, count): in place where
// the cache is float32, else widened into store [count, dim]. Rows lie far apart, and in pages in any order,
// where the processor cannot foresee them: the rows of the tile after this one, up to position `end`, are
// asked for ahead of time.
inline void tile_rows(const TileKernels& kernels, const CacheView& cache, int64_t begin, int64_t count,
                      int64_t column, int64_t dim, int64_t end, float* store, const float** rows) {
  constexpr int64_t kLine = 64;
  const int64_t bytes = static_cast<int64_t>(dtype_bytes(cache.dtype));
  for (int64_t j = 0; j < count; ++j) {
    if (begin + kTile + j < end) {
      const char* next = static_cast<const char*>(cache.row(begin + kTile + j)) + column * bytes;
      for (int64_t at = 0; at < dim * bytes; at += kLine) __builtin_prefetch(next + at);
    }
    const void* row = cache.row(begin + j);
    rows[j] = static_cast<const float*>(row) + column;
    if (cache.dtype == DType::kF32) continue;
    kernels.widen(static_cast<const uint16_t*>(row) + column, dim, store + j * dim);
    rows[j] = store + j * dim;
  }
}

}  // namespace moebius
