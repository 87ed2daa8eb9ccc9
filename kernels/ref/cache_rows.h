// Reading cached rows for the references.
#pragma once

#include "kernels/half.h"
#include "kernels/ops.h"

namespace moebius::ref {

inline double read_number(const CacheView& cache, const char* row, int64_t column) {
  if (cache.dtype == DType::kBF16) return bf16_to_f32(load_unaligned<uint16_t>(row, column));
  if (cache.dtype == DType::kF32) return load_unaligned<float>(row, column);
  const float scale =
      bf16_to_f32(load_unaligned<uint16_t>(row + cache_scales_at(cache.width), column / kCacheGroup));
  return load_unaligned<int8_t>(row, column) * scale;
}

// Columns [column, column + count) of a cached position, exactly.
inline void read_cache(const CacheView& cache, int64_t position, int64_t column, int64_t count, double* out) {
  const char* row = static_cast<const char*>(cache.row(position));
  for (int64_t i = 0; i < count; ++i) out[i] = read_number(cache, row, column + i);
}

}  // namespace moebius::ref
