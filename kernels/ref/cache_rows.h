// Reading cached rows, one number at a time, for the references.
#pragma once

#include "kernels/half.h"
#include "kernels/ops.h"

namespace moebius::ref {

inline float cache_value(const CacheView& cache, int64_t position, int64_t column) {
  const void* row = cache.row(position);
  return cache.dtype == DType::kBF16 ? bf16_to_f32(static_cast<const uint16_t*>(row)[column])
                                     : static_cast<const float*>(row)[column];
}

}  // namespace moebius::ref
