#include <algorithm>

#include "kernels/cpu/host.h"
#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kGrainNumbers = 16384;  // fewer are not worth a thread

void round_row(const CacheView& cache, const float* x, int64_t column, int64_t width, char* row) {
  uint16_t* scales = reinterpret_cast<uint16_t*>(row + cache_scales_at(cache.width));
  for (int64_t i = 0; i < width; i += kCacheGroup)
    round_group_avx2(x + i, std::min(kCacheGroup, width - i), reinterpret_cast<int8_t*>(row) + column + i,
                     scales + (column + i) / kCacheGroup);
}

void cache_write_f32_avx2(const CacheWriteArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], width = args.x.shape[1];
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, width));
  parallel_for(context.pool, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = args.x.f32() + t * args.x.stride[0];
      void* row = args.cache.row(args.first + t);
      if (args.cache.dtype == DType::kI8)
        round_row(args.cache, x, args.column, width, static_cast<char*>(row));
      else if (args.cache.dtype == DType::kBF16)
        narrow_row_avx2(x, width, static_cast<uint16_t*>(row) + args.column);
      else
        std::copy_n(x, width, static_cast<float*>(row) + args.column);
    }
  });
}

}  // namespace

std::span<const Candidate<CacheWriteArgs>> host_cache_write() {
  static constexpr Candidate<CacheWriteArgs> kCandidates[] = {
      {"cache_write_f32_avx2", needs_avx2<CacheWriteArgs>, cache_write_f32_avx2},
      reference_candidate<CacheWriteArgs, ref::cache_write>("cache_write_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
