#include <algorithm>

#include "kernels/cuda/elementwise.h"

namespace moebius::cuda {
namespace {

constexpr int64_t kMaskExperts = 8192;

// Which of a window of experts are elsewhere: a parameter, so that nothing need be uploaded.
struct Elsewhere {
  uint32_t word[kMaskExperts / 32];
};

struct TakeSlots {
  const float* from;
  float* slots;
  const int32_t* ids;
  int64_t k, from_token, from_slot, to_token, to_slot, ids_stride;
  int64_t first, count;  // the window
  Elsewhere elsewhere;

  template <int N>
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t t = row / k, s = row % k, e = ids[t * ids_stride + s] - first;
    if (e < 0 || e >= count || (elsewhere.word[e / 32] >> (e % 32) & 1) == 0) return;
    store(slots + t * to_token + s * to_slot + column,
          load<N>(from + t * from_token + s * from_slot + column));
  }
};

}  // namespace

// Moves the slots that are taken, once each way, 8 bytes a number; from pinned memory over the link.
void take_slots(Context& context, const TakeSlotsArgs& args) {
  TakeSlots op{args.from.f32(),
               args.slots.f32(),
               args.ids.i32(),
               args.ids.shape[1],
               args.from.stride[0],
               args.from.stride[1],
               args.slots.stride[0],
               args.slots.stride[1],
               args.ids.stride[0],
               0,
               0,
               {}};
  for (op.first = 0; op.first < args.n_experts; op.first += kMaskExperts) {
    op.count = std::min(kMaskExperts, args.n_experts - op.first);
    op.elsewhere = Elsewhere{};
    bool any = false;
    for (int64_t e = 0; e < op.count; ++e) {
      if (!args.experts[op.first + e].elsewhere()) continue;
      op.elsewhere.word[e / 32] |= 1u << (e % 32);
      any = true;
    }
    if (any)
      for_each_column(context, args.ids.shape[0] * op.k, args.from.shape[2],
                      aligned_rows(args.from) && aligned_rows(args.slots), op);
  }
}

}  // namespace moebius::cuda
