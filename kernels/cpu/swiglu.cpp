#include "kernels/cpu/swiglu.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

float swiglu_gradient_row(const SwigluGradientRow& row, int64_t n, bool avx2) {
  if (avx2) return swiglu_gradient_row_avx2(row, n);
  float along = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float gate = row.gate[i], up = row.up[i], dh = row.dh[i];
    // 1 - s as e * s keeps its digits where s is close to 1; where e overflows, s is 0 and so is all of it.
    const float e = std::exp(-gate), s = 1.0f / (1.0f + e);
    const float rest = std::min(std::numeric_limits<float>::max(), e) * s, silu = gate * s;
    row.dgate[i] = row.factor * dh * up * s * (1.0f + gate * rest);
    row.dup[i] = row.factor * dh * silu;
    row.h[i] = row.factor * silu * up;
    along += dh * (silu * up);
  }
  return along;
}

std::span<const Candidate<SwigluArgs>> host_swiglu() {
  static constexpr Candidate<SwigluArgs> kCandidates[] = {
      {"swiglu_f32_avx2", needs_avx2<SwigluArgs>, swiglu_f32_avx2},
      reference_candidate<SwigluArgs, ref::swiglu>("swiglu_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
