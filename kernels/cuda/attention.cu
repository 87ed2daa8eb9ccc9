#include "kernels/cuda/attend.h"
#include "kernels/cuda/pages.h"

namespace moebius::cuda {
namespace {

// Rows of a paged cache.
template <class T>
struct CachedRows {
  using Number = T;
  const T* base = nullptr;
  Pages pages;
  int64_t width = 0, k_column = 0, v_column = 0;
  int k_dim = 0, v_dim = 0;
  bool wide = false;  // eights of keys and values start at multiples of 16 bytes

  __device__ int64_t row(int64_t position) const { return pages.row(position) * width; }
  __device__ Eight<T> keys(int64_t row, int64_t kv_head, int column) const {
    return load_eight(base + row + k_column + kv_head * k_dim + column, k_dim - column, wide);
  }
  __device__ Eight<T> values(int64_t row, int64_t kv_head, int column) const {
    return load_eight(base + row + v_column + kv_head * v_dim + column, v_dim - column, wide);
  }
};

template <class T>
void attend_cache(Context& context, const AttentionArgs& args, const AttendRows& rows) {
  const int64_t positions = args.first + rows.tokens;
  const int64_t bytes = static_cast<int64_t>(sizeof(T));
  CachedRows<T> source;
  source.base = static_cast<const T*>(args.cache.base);
  source.pages = upload_pages(context, args.cache, positions);
  if (!source.pages.pages) return;
  source.width = args.cache.width, source.k_column = args.k_column, source.v_column = args.v_column;
  source.k_dim = rows.k_dim, source.v_dim = rows.v_dim;
  source.wide = aligned16(args.cache.base, args.cache.width * bytes) && (args.k_column * bytes) % 16 == 0 &&
                (args.v_column * bytes) % 16 == 0 &&
                (rows.kv_heads == 1 || ((rows.k_dim * bytes) % 16 == 0 && (rows.v_dim * bytes) % 16 == 0));
  const int64_t splits = blocks_for(positions, kSplit);
  const AttendPlan plan = plan_attend(context, rows, splits, 1);
  if (plan.ok) attend(context, rows, source, plan, 0, splits);
}

}  // namespace

// Has to read the queries, every cached key and value once, and to write out. A block reads a key and a value
// once for all its rows (16 or 64: heads of a key/value head, and tokens); blocks of other rows, and the
// values of absorbed MLA, which are a part of its keys, find them in the second-level cache. Few rows over
// many positions are spread over all multiprocessors by splits; what their parts cost is v_dim float32 for
// every 256 positions of a row, written and read once.
void attention(Context& context, const AttentionArgs& args) {
  if (args.q.numel() == 0) return;
  MOEBIUS_CHECK(args.k_dim <= INT32_MAX - kChunk && args.v_dim <= INT32_MAX / 2, args.q.describe());
  AttendRows rows;
  rows.q = args.q.f32(), rows.q_token = args.q.stride[0], rows.q_head = args.q.stride[1];
  rows.out = args.out.f32(), rows.out_token = args.out.stride[0], rows.out_head = args.out.stride[1];
  rows.first = args.first, rows.tokens = args.q.shape[0];
  rows.kv_heads = args.kv_heads, rows.group = args.q.shape[1] / args.kv_heads;
  rows.k_dim = static_cast<int>(args.k_dim), rows.v_dim = static_cast<int>(args.v_dim);
  rows.scale = args.scale;
  args.cache.dtype == DType::kBF16 ? attend_cache<uint16_t>(context, args, rows)
                                   : attend_cache<float>(context, args, rows);
}

}  // namespace moebius::cuda
