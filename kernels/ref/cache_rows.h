// Reading cached rows for the references.
#pragma once

#include "kernels/half.h"
#include "kernels/ops.h"

namespace moebius::ref {

// Columns [column, column + count) of a cached position, exactly.
inline void read_cache(const CacheView& cache, int64_t position, int64_t column, int64_t count, double* out) {
  const void* row = cache.row(position);
  for (int64_t i = 0; i < count; ++i)
    out[i] = cache.dtype == DType::kBF16 ? bf16_to_f32(static_cast<const uint16_t*>(row)[column + i])
                                         : static_cast<const float*>(row)[column + i];
}

}  // namespace moebius::ref
