#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/half.h"

namespace moebius::cuda {
namespace {

constexpr int64_t kPages = 256;

// The pages of a run of positions: a parameter, so that nothing need be uploaded.
struct PageList {
  int32_t page[kPages];
};

template <class T>  // float, or uint16_t for bfloat16
struct CacheWrite {
  const float* x;
  T* base;                                       // column `column` of the cache's first row
  int64_t x_stride, width, page_tokens, offset;  // of the first token within the first page
  PageList pages;

  template <int N>
  __device__ void operator()(int64_t t, int64_t column) const {
    const int64_t position = offset + t;
    const int64_t row = pages.page[position / page_tokens] * page_tokens + position % page_tokens;
    const Floats<N> from = load<N>(x + t * x_stride + column);
    struct alignas(N * sizeof(T)) Out {
      T at[N];
    } out;
    for (int i = 0; i < N; ++i) {
      if constexpr (sizeof(T) == 2)
        out.at[i] = f32_to_bf16(from.at[i]);
      else
        out.at[i] = from.at[i];
    }
    *static_cast<Out*>(static_cast<void*>(base + row * width + column)) = out;
  }
};

template <class T>
void write(Context& context, const CacheWriteArgs& args) {
  const CacheView& cache = args.cache;
  CacheWrite<T> op{};
  op.base = static_cast<T*>(cache.base) + args.column;
  op.x_stride = args.x.stride[0], op.width = cache.width, op.page_tokens = cache.page_tokens;
  const bool wide = aligned_rows(args.x) && reinterpret_cast<uintptr_t>(op.base) % (4 * sizeof(T)) == 0 &&
                    cache.width % 4 == 0;
  const int64_t n = args.x.shape[0];
  for (int64_t t = 0; t < n;) {
    const int64_t position = args.first + t, first_page = position / cache.page_tokens;
    op.x = args.x.f32() + t * op.x_stride;
    op.offset = position % cache.page_tokens;
    const int64_t count = std::min(n - t, kPages * cache.page_tokens - op.offset);
    std::copy_n(cache.pages + first_page, blocks_for(op.offset + count, cache.page_tokens), op.pages.page);
    for_each_column(context, count, args.x.shape[1], wide, op);
    t += count;
  }
}

}  // namespace

// Reads x once, 4 bytes a number, and writes 4 or 2: 16 bytes an access in, 16 or 8 out.
void cache_write(Context& context, const CacheWriteArgs& args) {
  args.cache.dtype == DType::kBF16 ? write<uint16_t>(context, args) : write<float>(context, args);
}

}  // namespace moebius::cuda
