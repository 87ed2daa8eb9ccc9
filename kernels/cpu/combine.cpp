#include <algorithm>

#include "kernels/cpu/host.h"
#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kColumns = 1024;  // of y that stay in the nearest cache while the slots are added

void combine_f32_avx2(const CombineArgs& args, HostContext& context) {
  const int64_t n = args.slots.shape[0], k = args.slots.shape[1], hidden = args.slots.shape[2];
  const int64_t pieces = (hidden + kColumns - 1) / kColumns,
                grain = std::max<int64_t>(1, 16 / std::max<int64_t>(1, k));
  parallel_for(context.pool, n * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t t = unit / pieces, column = unit % pieces * kColumns;
      const int64_t count = std::min(kColumns, hidden - column);
      for (int64_t s = 0; s < k; ++s) {
        if (args.ids.i32()[t * args.ids.stride[0] + s] < 0) continue;
        const float* slot = args.slots.f32() + t * args.slots.stride[0] + s * args.slots.stride[1];
        const float weight = args.weights.empty() ? 1.0f : args.weights.f32()[t * args.weights.stride[0] + s];
        add_scaled_row_avx2(weight, slot + column, count, args.y.f32() + t * args.y.stride[0] + column);
      }
    }
  });
}

}  // namespace

// Only a simulated device runs it, to move what its link has paid for already.
std::span<const Candidate<TakeSlotsArgs>> host_take_slots() {
  static constexpr Candidate<TakeSlotsArgs> kCandidates[] = {
      reference_candidate<TakeSlotsArgs, ref::take_slots>("take_slots_ref"),
  };
  return kCandidates;
}

std::span<const Candidate<CombineArgs>> host_combine() {
  static constexpr Candidate<CombineArgs> kCandidates[] = {
      {"combine_f32_avx2", needs_avx2<CombineArgs>, combine_f32_avx2},
      reference_candidate<CombineArgs, ref::combine>("combine_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
