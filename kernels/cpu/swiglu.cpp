#include "kernels/cpu/swiglu.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/host.h"
#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kColumns = 4096;  // of one token, enough to be worth a thread

void swiglu_f32_avx2(const SwigluArgs& args, HostContext& context) {
  const int64_t n = args.y.shape[0], d = args.y.shape[1], pieces = (d + kColumns - 1) / kColumns;
  const int64_t grain = std::max<int64_t>(1, kColumns / std::max<int64_t>(1, d));
  parallel_for(context.pool, n * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t t = unit / pieces, column = unit % pieces * kColumns;
      swiglu_row_avx2(args.gate.f32() + t * args.gate.stride[0] + column,
                      args.up.f32() + t * args.up.stride[0] + column, std::min(kColumns, d - column),
                      args.y.f32() + t * args.y.stride[0] + column);
    }
  });
}

}  // namespace

void swiglu_row(const float* gate, const float* up, int64_t n, float* y, bool avx2) {
  if (avx2) return swiglu_row_avx2(gate, up, n, y);
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

std::span<const Candidate<SwigluArgs>> host_swiglu() {
  static constexpr Candidate<SwigluArgs> kCandidates[] = {
      {"swiglu_f32_avx2", needs_avx2<SwigluArgs>, swiglu_f32_avx2},
      reference_candidate<SwigluArgs, ref::swiglu>("swiglu_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
