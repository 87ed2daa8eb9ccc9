// Expanded MLA for many tokens, in waves of positions: the wave's latents are gathered from their pages, a
// product with kv_b rebuilds every head's keys and values once for all tokens of the call, and attention
// takes in the wave's splits.
#include "kernels/cuda/attend.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/pages.h"

namespace moebius::cuda {
namespace {

// Positions of one product. Always so many, at absolute multiples: cuBLAS picks its order of summing by the
// shape, and a rebuilt number must not depend on how many tokens there are.
constexpr int64_t kExpand = kSplit;
constexpr int64_t kMostExpands = 8;            // of a wave
constexpr int64_t kExpandedFloats = 32 << 20;  // of a wave
constexpr int kThreads = 64;

int64_t whole_eights(int64_t count) { return (count + 7) / 8 * 8; }

// Rebuilt rows of a wave.
struct ExpandedRows {
  using Number = float;
  const float* expanded = nullptr;  // [positions, heads, nope + v_dim]
  const float* rotary = nullptr;    // [positions, rope], rows rope_stride apart
  int64_t begin = 0;                // the wave's first position
  int64_t heads = 0;
  int nope = 0, rope = 0, v_dim = 0, rope_stride = 0;
  bool wide = false;  // fours of keys and values start at multiples of 16 bytes

  __device__ int64_t row(int64_t position) const { return position - begin; }
  __device__ const float* head(int64_t row, int64_t head) const {
    return expanded + (row * heads + head) * (nope + v_dim);
  }
  __device__ Eight<float> keys(int64_t row, int64_t kv_head, int column) const {
    const float *own = head(row, kv_head), *shared = rotary + row * rope_stride;
    if (column + 8 <= nope) return load_eight(own + column, 8, wide);
    if (column >= nope) return load_eight(shared + (column - nope), nope + rope - column, wide);
    Eight<float> eight{};
    MOEBIUS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int c = column + i;
      if (c >= nope + rope) continue;
      eight.part[i / 4].word[i % 4] = std::bit_cast<uint32_t>(c < nope ? own[c] : shared[c - nope]);
    }
    return eight;
  }
  __device__ Eight<float> values(int64_t row, int64_t kv_head, int column) const {
    return load_eight(head(row, kv_head) + nope + column, v_dim - column, wide);
  }
};

// Latents and rotary keys of positions begin + block_x(), zeros from `end` on.
template <class From, class To>
struct Gather {
  const From* base;
  Pages pages;
  int64_t width, begin, end;
  int latent, rope, latent_stride, rope_stride;
  bool wide;
  To* latents;    // [positions, latent_stride]
  float* rotary;  // [positions, rope_stride]
};

template <class From, class To>
__device__ void put_eight(const Eight<From>& eight, To* to) {
  if constexpr (sizeof(From) == sizeof(To)) {
    MOEBIUS_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(To)) / 2; ++i)
      store16(to + i * static_cast<int>(16 / sizeof(To)), eight.part[i]);
  } else {
    MOEBIUS_UNROLL
    for (int half = 0; half < 2; ++half) {
      Bytes16 four;
      MOEBIUS_UNROLL
      for (int i = 0; i < 4; ++i) four.word[i] = std::bit_cast<uint32_t>(number_of(eight, 4 * half + i));
      store16(to + 4 * half, four);
    }
  }
}

template <class From, class To>
__global__ void gather_kernel(Gather<From, To> task) {
  const int64_t index = block_x(), position = task.begin + index;
  const bool there = position < task.end;
  const From* row = there ? task.base + task.pages.row(position) * task.width : nullptr;
  for (int c = thread() * 8; c < task.latent_stride; c += kThreads * 8) {
    const Eight<From> eight = there ? load_eight(row + c, task.latent - c, task.wide) : Eight<From>{};
    put_eight(eight, task.latents + index * task.latent_stride + c);
  }
  for (int c = thread() * 8; c < task.rope_stride; c += kThreads * 8) {
    const Eight<From> eight =
        there ? load_eight(row + task.latent + c, task.rope - c, task.wide) : Eight<From>{};
    put_eight(eight, task.rotary + index * task.rope_stride + c);
  }
}

// kv_b as the product takes it, in the type of the latents.
struct Projection {
  DType type = DType::kF32;
  const void* data = nullptr;  // [rows, latent]; null: no memory
};
Projection projection_of(Context& context, const Matrix& w, DType cache) {
  const bool aligned = aligned16(w.data, w.row_bytes());
  if (w.format == Format::kBF16 && cache == DType::kBF16 && aligned) return {DType::kBF16, w.data};
  if (w.format == Format::kF32 && aligned) return {DType::kF32, w.data};
  float* own = static_cast<float*>(context.scratch(w.rows * w.cols * 4));
  dequantize(context, w, own, w.cols);
  return {DType::kF32, own};
}

template <class From, class To>
void prefill(Context& context, const MlaPrefillArgs& args, const AttendRows& rows, const Projection& w) {
  const int64_t latent = args.kv_b.cols, out_rows = args.kv_b.rows, end = args.first + rows.tokens;
  const int64_t expands = std::min(
      blocks_for(end, kExpand), std::clamp<int64_t>(kExpandedFloats / (out_rows * kExpand), 1, kMostExpands));
  const int64_t wave = expands * kExpand, bytes = static_cast<int64_t>(sizeof(From));
  Gather<From, To> gather{};
  gather.base = static_cast<const From*>(args.cache.base), gather.width = args.cache.width, gather.end = end;
  gather.pages = upload_pages(context, args.cache, end);
  gather.latent = static_cast<int>(latent), gather.latent_stride = static_cast<int>(whole_eights(latent));
  gather.rope = static_cast<int>(args.rope), gather.rope_stride = static_cast<int>(whole_eights(args.rope));
  gather.wide = aligned16(args.cache.base, args.cache.width * bytes) && latent * bytes % 16 == 0;
  gather.latents =
      static_cast<To*>(context.scratch(wave * gather.latent_stride * static_cast<int64_t>(sizeof(To))));
  gather.rotary = static_cast<float*>(context.scratch(std::max<int64_t>(1, wave * gather.rope_stride) * 4));
  float* expanded = static_cast<float*>(context.scratch(wave * out_rows * 4));
  const AttendPlan plan = plan_attend(context, rows, expands, blocks_for(end, wave));
  if (!gather.pages.pages || !gather.latents || !gather.rotary || !expanded || !plan.ok) return;

  ExpandedRows source;
  source.expanded = expanded, source.rotary = gather.rotary, source.heads = rows.kv_heads;
  source.nope = static_cast<int>(args.nope), source.rope = gather.rope, source.v_dim = rows.v_dim;
  source.rope_stride = gather.rope_stride;
  source.wide = args.nope % 4 == 0 && args.v_dim % 4 == 0;
  for (gather.begin = 0; gather.begin < end; gather.begin += wave) {
    const int64_t products = std::min(expands, blocks_for(end - gather.begin, kExpand));
    launch(context.compute(), gather_kernel<From, To>, Grid{products * kExpand}, kThreads, 0, gather);
    for (int64_t i = 0; i < products; ++i) {
      context.gemm(w.type, kExpand, out_rows, latent, gather.latents + i * kExpand * gather.latent_stride,
                   gather.latent_stride, w.data, latent, expanded + i * kExpand * out_rows, out_rows, false);
    }
    source.begin = gather.begin;
    attend(context, rows, source, plan, gather.begin / kSplit, gather.begin / kSplit + products);
  }
}

}  // namespace

// Has to do 2 * latent * (nope + v_dim) operations for each head and position, in cuBLAS (on bfloat16 where
// both kv_b and the cache are, whose products are exact in float32), and as many as attention does; moves
// 8 bytes for each rebuilt number besides, which the tokens of the call share.
void mla_prefill(Context& context, const MlaPrefillArgs& args) {
  if (args.q.numel() == 0) return;
  MOEBIUS_CHECK(args.kv_b.cols > 0 && args.kv_b.cols <= INT32_MAX - 8 &&
                    args.nope + args.rope <= INT32_MAX - kChunk && args.v_dim <= INT32_MAX / 2,
                args.kv_b.describe());
  AttendRows rows;
  rows.q = args.q.f32(), rows.q_token = args.q.stride[0], rows.q_head = args.q.stride[1];
  rows.out = args.out.f32(), rows.out_token = args.out.stride[0], rows.out_head = args.out.stride[1];
  rows.first = args.first, rows.tokens = args.q.shape[0], rows.kv_heads = args.q.shape[1];
  rows.k_dim = static_cast<int>(args.nope + args.rope), rows.v_dim = static_cast<int>(args.v_dim);
  rows.scale = args.scale;
  const Projection w = projection_of(context, args.kv_b, args.cache.dtype);
  if (!w.data) return;
  if (w.type == DType::kBF16) return prefill<uint16_t, uint16_t>(context, args, rows, w);
  args.cache.dtype == DType::kBF16 ? prefill<uint16_t, float>(context, args, rows, w)
                                   : prefill<float, float>(context, args, rows, w);
}

}  // namespace moebius::cuda
