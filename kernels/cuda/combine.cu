#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

struct Combine {
  const float* slots;
  const int32_t* ids;
  const float* weights;
  float* y;
  int64_t k, token_stride, slot_stride, ids_stride, weights_stride, y_stride;

  template <int N>
  __device__ void operator()(int64_t t, int64_t column) const {
    float* to = y + t * y_stride + column;
    Floats<N> sum = load<N>(to);
    for (int64_t s = 0; s < k; ++s) {
      if (ids[t * ids_stride + s] < 0) continue;
      const float weight = weights ? weights[t * weights_stride + s] : 1.0f;
      const Floats<N> slot = load<N>(slots + t * token_stride + s * slot_stride + column);
      for (int i = 0; i < N; ++i) sum.at[i] = fmaf(weight, slot.at[i], sum.at[i]);
    }
    store(to, sum);
  }
};

}  // namespace

// Reads each slot in use once, y once, and writes y: (slots + 2) * 4 bytes a column. Ids and weights of a
// token are the same for all its threads, and come from the cache.
void combine(Context& context, const CombineArgs& args) {
  const float* weights = args.weights.empty() ? nullptr : args.weights.f32();
  const Combine op{args.slots.f32(),     args.ids.i32(),      weights,
                   args.y.f32(),         args.slots.shape[1], args.slots.stride[0],
                   args.slots.stride[1], args.ids.stride[0],  args.weights.stride[0],
                   args.y.stride[0]};
  for_each_column(context, args.y.shape[0], args.y.shape[1], aligned_rows(args.slots) && aligned_rows(args.y),
                  op);
}

}  // namespace moebius::cuda
