// The two projections of absorbed MLA: both read kv_b in place, a head's rows at a time.
#include <algorithm>

#include "kernels/cpu/host.h"

namespace moebius {
namespace {

// Head by head: its rows stay in a cache from one token to the next.
void mla_absorb_rows(const MlaAbsorbArgs& args, HostContext& context) {
  const Matrix& w = args.kv_b;
  const int64_t n = args.q.shape[0], heads = args.q.shape[1];
  const FormatKernels& kernels = context.kernels(w.format);
  parallel_for(context.pool, n * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i % n, h = i / n, first = h * (args.nope + args.v_dim);
      float* y = args.y.f32() + t * args.y.stride[0] + h * args.y.stride[1];
      std::fill(y, y + w.cols, 0.0f);
      const float* q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
      kernels.axpy_rows(w, first, first + args.nope, q, y);
      std::copy(q + args.nope, q + args.q.shape[2], y + w.cols);
    }
  });
}

// All tokens of a head in one call: its rows are converted once for several tokens.
void mla_value_rows(const MlaValueArgs& args, HostContext& context) {
  const Matrix& w = args.kv_b;
  const int64_t n = args.o.shape[0], heads = args.o.shape[1];
  constexpr int64_t kTokens = 16;
  const int64_t parts = (n + kTokens - 1) / kTokens;
  const FormatKernels& kernels = context.kernels(w.format);
  parallel_for(context.pool, parts * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t h = i / parts, t = i % parts * kTokens;
      const int64_t first = h * (args.nope + args.v_dim) + args.nope;
      Activations o;
      o.x = args.o.f32() + t * args.o.stride[0] + h * args.o.stride[1];
      o.ld = args.o.stride[0], o.cols = w.cols;
      kernels.dot_rows(w, first, first + args.v_dim, o, nullptr, std::min(kTokens, n - t),
                       args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1], args.out.stride[0]);
    }
  });
}

}  // namespace

std::span<const Candidate<MlaAbsorbArgs>> host_mla_absorb() {
  static constexpr Candidate<MlaAbsorbArgs> kCandidates[] = {
      {"mla_absorb_rows", declines_nothing<MlaAbsorbArgs>, mla_absorb_rows},
      reference_candidate<MlaAbsorbArgs, ref::mla_absorb>("mla_absorb_ref"),
  };
  return kCandidates;
}

std::span<const Candidate<MlaValueArgs>> host_mla_value() {
  static constexpr Candidate<MlaValueArgs> kCandidates[] = {
      {"mla_value_rows", declines_nothing<MlaValueArgs>, mla_value_rows},
      reference_candidate<MlaValueArgs, ref::mla_value>("mla_value_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
