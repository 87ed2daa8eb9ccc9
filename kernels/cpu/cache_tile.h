// Cached rows as float32, a tile at a time.
#pragma once

#include "kernels/cpu/tile.h"
#include "kernels/ops.h"

namespace moebius {

// rows[j] = columns [column, column + dim) of position begin + j in float32, j in [0, count): in place where
// the cache is float32, else widened into store [count, dim].
inline void tile_rows(const TileKernels& kernels, const CacheView& cache, int64_t begin, int64_t count,
                      int64_t column, int64_t dim, float* store, const float** rows) {
  for (int64_t j = 0; j < count; ++j) {
    const void* row = cache.row(begin + j);
    rows[j] = static_cast<const float*>(row) + column;
    if (cache.dtype == DType::kF32) continue;
    kernels.widen(static_cast<const uint16_t*>(row) + column, dim, store + j * dim);
    rows[j] = store + j * dim;
  }
}

}  // namespace moebius
