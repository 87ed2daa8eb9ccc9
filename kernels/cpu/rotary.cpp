#include <algorithm>

#include "kernels/cpu/host.h"
#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kGrainNumbers = 16384;  // fewer are not worth a thread

void rotary_f32_avx2(const RotaryArgs& args, HostContext& context) {
  const Tensor& x = args.x;
  const int64_t n = x.shape[0], heads = x.shape[1], half = args.cos.shape[1];
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, 2 * heads * half));
  parallel_for(context.pool, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < heads; ++h)
        rotary_row_avx2(x.f32() + t * x.stride[0] + h * x.stride[1], args.cos.f32() + t * args.cos.stride[0],
                        args.sin.f32() + t * args.sin.stride[0], half, args.interleaved);
  });
}

}  // namespace

std::span<const Candidate<RotaryArgs>> host_rotary() {
  static constexpr Candidate<RotaryArgs> kCandidates[] = {
      {"rotary_f32_avx2", needs_avx2<RotaryArgs>, rotary_f32_avx2},
      reference_candidate<RotaryArgs, ref::rotary>("rotary_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
