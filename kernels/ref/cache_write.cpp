#include "kernels/half.h"
#include "kernels/ops.h"

namespace moebius::ref {

void cache_write(const CacheWriteArgs& args, bool) {
  for (int64_t t = 0; t < args.x.shape[0]; ++t) {
    const float* x = args.x.f32() + t * args.x.stride[0];
    void* row = args.cache.row(args.first + t);
    for (int64_t i = 0; i < args.x.shape[1]; ++i) {
      if (args.cache.dtype == DType::kBF16)
        static_cast<uint16_t*>(row)[args.column + i] = f32_to_bf16(x[i]);
      else
        static_cast<float*>(row)[args.column + i] = x[i];
    }
  }
}

}  // namespace moebius::ref
