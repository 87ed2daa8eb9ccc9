// The page table of a cache (CacheView of kernels/ops.h) on the device.
#pragma once

#include "kernels/cuda/context.h"

namespace moebius::cuda {

struct Pages {
  const int32_t* pages = nullptr;  // device memory
  int64_t page_tokens = 1;

  // The row of the cache's memory that holds a position.
  __device__ int64_t row(int64_t position) const {
    return pages[position / page_tokens] * page_tokens + position % page_tokens;
  }
};

// Of positions [0, positions), at least one. pages is null when the device has no memory left.
inline Pages upload_pages(Context& context, const CacheView& cache, int64_t positions) {
  return {context.upload(cache.pages, blocks_for(positions, cache.page_tokens)), cache.page_tokens};
}

}  // namespace moebius::cuda
