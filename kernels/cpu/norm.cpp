#include <algorithm>

#include "kernels/cpu/host.h"
#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kGrainNumbers = 16384;  // fewer are not worth a thread

void rms_norm_f32_avx2(const RmsNormArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  const int64_t grain = std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, d));
  parallel_for(context.pool, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      rms_norm_row_avx2(args.x.f32() + t * args.x.stride[0], args.weight.f32(), args.eps, d,
                        args.y.f32() + t * args.y.stride[0]);
  });
}

}  // namespace

std::span<const Candidate<RmsNormArgs>> host_rms_norm() {
  static constexpr Candidate<RmsNormArgs> kCandidates[] = {
      {"rms_norm_f32_avx2", needs_avx2<RmsNormArgs>, rms_norm_f32_avx2},
      reference_candidate<RmsNormArgs, ref::rms_norm>("rms_norm_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
