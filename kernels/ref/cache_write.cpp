#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "kernels/ops.h"

namespace moebius::ref {
namespace {

void write_group(const float* x, int64_t count, int8_t* codes, uint16_t* scale) {
  float most = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite &= std::isfinite(x[i]);
    most = std::max(most, std::fabs(x[i]));
  }
  std::fill_n(codes, count, int8_t{0});
  *scale = finite ? 0 : 0x7fc0;
  if (!finite || most < 0x1p-110f) return;
  const uint32_t bits = std::bit_cast<uint32_t>(most / 127);
  *scale = static_cast<uint16_t>((bits + 0xffff) >> 16);
  for (int64_t i = 0; i < count; ++i) {
    const float code = std::nearbyint(x[i] / bf16_to_f32(*scale));
    codes[i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
  }
}

}  // namespace

void cache_write(const CacheWriteArgs& args, bool) {
  const CacheView& cache = args.cache;
  for (int64_t t = 0; t < args.x.shape[0]; ++t) {
    const float* x = args.x.f32() + t * args.x.stride[0];
    char* row = static_cast<char*>(cache.row(args.first + t));
    for (int64_t i = 0; i < args.x.shape[1]; ++i) {
      const int64_t column = args.column + i;
      if (cache.dtype == DType::kF32) reinterpret_cast<float*>(row)[column] = x[i];
      if (cache.dtype == DType::kBF16) reinterpret_cast<uint16_t*>(row)[column] = f32_to_bf16(x[i]);
      if (cache.dtype == DType::kI8 && column % kCacheGroup == 0)
        write_group(x + i, std::min(kCacheGroup, args.x.shape[1] - i),
                    reinterpret_cast<int8_t*>(row) + column,
                    reinterpret_cast<uint16_t*>(row + cache_scales_at(cache.width)) + column / kCacheGroup);
    }
  }
}

}  // namespace moebius::ref
