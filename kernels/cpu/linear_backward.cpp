#include <algorithm>

#include "kernels/cpu/adapter.h"
#include "kernels/cpu/grad_products.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

constexpr int64_t kTokens = 256;  // of a task
constexpr int64_t kColumns = 128;

void adapter_backward(const LinearBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const Lora& lora = *args.w.lora;
  const int64_t n = args.dy.shape[0], rank = lora.a.shape[0], cols = lora.a.shape[1];
  const bool passes_on = !args.dx.empty() && !lora.merged;
  if (passes_on || !lora.da.empty()) {
    const Tensor dmid = f32_tensor(context.scratch.take<float>(n * rank), {n, rank});
    std::fill_n(dmid.f32(), n * rank, 0.0f);
    add_product(args.dy, matrix_over(lora.b), dmid, context);
    for (int64_t i = 0; i < n * rank; ++i) dmid.f32()[i] *= lora.scale;
    if (passes_on) add_product(dmid, matrix_over(lora.a), args.dx, context);
    if (!lora.da.empty()) add_outer(dmid, args.x, lora.da, context);
  }
  if (lora.db.empty()) return;
  const Tensor mid = f32_tensor(context.scratch.take<float>(n * rank), {n, rank});
  parallel_for(context.pool, n, kTokens, [&](int64_t begin, int64_t end) {
    float* to = mid.f32() + begin * rank;
    gemm_f32(end - begin, rank, cols, args.x.f32() + begin * args.x.stride[0], args.x.stride[0], lora.a.f32(),
             cols, to, rank, false);
    for (int64_t i = 0; i < (end - begin) * rank; ++i) to[i] *= lora.scale;
  });
  add_outer(args.dy, mid, lora.db, context);
}

void add_dbias(const LinearBackwardArgs& args, HostContext& context) {
  parallel_for(context.pool, args.dbias.shape[0], kColumns, [&](int64_t begin, int64_t end) {
    double sums[kColumns];
    std::copy(args.dbias.f32() + begin, args.dbias.f32() + end, sums);
    for (int64_t i = 0; i < args.dy.shape[0]; ++i) {
      const float* dy = args.dy.f32() + i * args.dy.stride[0];
      for (int64_t r = begin; r < end; ++r) sums[r - begin] += dy[r];
    }
    for (int64_t r = begin; r < end; ++r) args.dbias.f32()[r] = static_cast<float>(sums[r - begin]);
  });
}

void linear_backward_gemm(const LinearBackwardArgs& args, HostContext& context) {
  if (args.dy.numel() == 0) return;
  if (!args.dx.empty()) add_product(args.dy, args.w, args.dx, context);
  if (args.w.lora) adapter_backward(args, context);
  if (!args.dw.empty()) add_outer(args.dy, args.x, args.dw, context);
  if (!args.dbias.empty()) add_dbias(args, context);
}

}  // namespace

std::span<const Candidate<LinearBackwardArgs>> host_linear_backward() {
  static constexpr Candidate<LinearBackwardArgs> kCandidates[] = {
      {"linear_backward_gemm", declines_nothing<LinearBackwardArgs>, linear_backward_gemm},
      grad_reference<LinearBackwardArgs, ref::linear_backward>("linear_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
