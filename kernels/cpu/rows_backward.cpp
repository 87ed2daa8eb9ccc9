// Backward operations whose tokens, or columns, stand apart: with AVX2 where it pays, else the references on
// slices, one a thread.
#include <algorithm>

#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/host_grad.h"

namespace moebius {
namespace {

constexpr int64_t kGrainNumbers = 4096;  // fewer are not worth a thread

int64_t grain(int64_t numbers_each) {
  return std::max<int64_t>(1, kGrainNumbers / std::max<int64_t>(1, numbers_each));
}

// Rows [begin, begin + count) of a tensor that may be empty.
Tensor part(const Tensor& t, int64_t begin, int64_t count) { return t.empty() ? t : t.rows(begin, count); }
Tensor columns(const Tensor& t, int64_t begin, int64_t count) { return t.slice(1, begin, count); }

const float* row(const Tensor& t, int64_t i) { return t.f32() + i * t.stride[0]; }
float* row_or_null(const Tensor& t, int64_t i) { return t.empty() ? nullptr : t.f32() + i * t.stride[0]; }

constexpr int64_t kWeightTokens = 128;  // that sum dweight in float32; these sums are added in double

void rms_norm_backward_avx2(const RmsNormBackwardArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1], parts = (n + kWeightTokens - 1) / kWeightTokens;
  float* sums = args.dweight.empty() ? nullptr : context.scratch.take<float>(parts * d);
  parallel_for(context.pool, n, kWeightTokens, [&](int64_t begin, int64_t end) {
    float* sum = sums ? sums + begin / kWeightTokens * d : nullptr;
    if (sum) std::fill_n(sum, d, 0.0f);
    for (int64_t t = begin; t < end; ++t)
      rms_norm_gradient_row_avx2(
          {row(args.x, t), args.weight.f32(), row(args.dy, t), args.eps, row_or_null(args.dx, t), sum}, d);
  });
  for (int64_t i = 0; i < d && sums; ++i) {
    double sum = args.dweight.f32()[i];
    for (int64_t part = 0; part < parts; ++part) sum += sums[part * d + i];
    args.dweight.f32()[i] = static_cast<float>(sum);
  }
}

void rms_norm_backward_rows(const RmsNormBackwardArgs& args, HostContext& context) {
  const int64_t n = args.x.shape[0], d = args.x.shape[1];
  parallel_for(context.pool, args.dx.empty() ? 0 : n, grain(d), [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    ref::rms_norm_backward({args.x.rows(begin, count), args.weight, args.eps, args.dy.rows(begin, count),
                            args.dx.rows(begin, count), Tensor()});
  });
  // All tokens meet in dweight: on one thread, in their order.
  if (!args.dweight.empty())
    ref::rms_norm_backward({args.x, args.weight, args.eps, args.dy, Tensor(), args.dweight});
}

void swiglu_backward_avx2(const SwigluBackwardArgs& args, HostContext& context) {
  const int64_t d = args.gate.shape[1];
  parallel_for(context.pool, args.gate.shape[0], grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      swiglu_gradient_row_avx2({row(args.gate, t), row(args.up, t), row(args.dy, t), 1,
                                row_or_null(args.dgate, t), row_or_null(args.dup, t), nullptr},
                               d);
  });
}

void swiglu_backward_rows(const SwigluBackwardArgs& args, HostContext& context) {
  parallel_for(context.pool, args.gate.shape[0], grain(args.gate.shape[1]), [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    ref::swiglu_backward({args.gate.rows(begin, count), args.up.rows(begin, count),
                          args.dy.rows(begin, count), part(args.dgate, begin, count),
                          part(args.dup, begin, count)});
  });
}

void router_backward_rows(const RouterBackwardArgs& args, HostContext& context) {
  parallel_for(context.pool, args.logits.shape[0], grain(args.logits.shape[1]),
               [&](int64_t begin, int64_t end) {
                 const int64_t count = end - begin;
                 RouterBackwardArgs rows = args;
                 rows.logits = args.logits.rows(begin, count), rows.ids = args.ids.rows(begin, count);
                 rows.dweights = args.dweights.rows(begin, count);
                 rows.dlogits = args.dlogits.rows(begin, count);
                 ref::router_backward(rows);
               });
}

// Without a branch, so that it becomes vectors.
int32_t is_hit(const float* logits, int64_t vocab, int32_t target) {
  if (target < 0) return 0;
  const float own = logits[target];
  int32_t likelier = 0;
  for (int64_t i = 0; i < vocab; ++i) likelier |= logits[i] > own;
  return likelier == 0;
}

void cross_entropy_avx2(const CrossEntropyArgs& args, HostContext& context) {
  const int64_t vocab = args.logits.shape[1];
  parallel_for(context.pool, args.logits.shape[0], grain(vocab), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* logits = row_or_null(args.logits, t);
      const int32_t target = args.targets.i32()[t * args.targets.stride[0]];
      const float weight = args.weights.empty() ? 1.0f : *row(args.weights, t);
      if (!args.hits.empty()) args.hits.i32()[t * args.hits.stride[0]] = is_hit(logits, vocab, target);
      if (target < 0) std::fill_n(logits, vocab, 0.0f);
      args.loss.f32()[t * args.loss.stride[0]] =
          target < 0 ? 0.0f : cross_entropy_row_avx2(logits, vocab, target, weight);
    }
  });
}

void balance_backward_sequences(const BalanceBackwardArgs& args, HostContext& context) {
  parallel_for(context.pool, std::ssize(args.starts) - 1, 1, [&](int64_t begin, int64_t) {
    BalanceBackwardArgs one = args;
    one.starts = args.starts.subspan(static_cast<size_t>(begin), 2);
    ref::balance_backward(one);
  });
}

void cross_entropy_rows(const CrossEntropyArgs& args, HostContext& context) {
  parallel_for(context.pool, args.logits.shape[0], grain(args.logits.shape[1]),
               [&](int64_t begin, int64_t end) {
                 const int64_t count = end - begin;
                 ref::cross_entropy({args.logits.rows(begin, count), args.targets.rows(begin, count),
                                     part(args.weights, begin, count), args.loss.rows(begin, count),
                                     part(args.hits, begin, count)});
               });
}

// Tokens may share a row of the table, columns never meet.
void embed_backward_columns(const EmbedBackwardArgs& args, HostContext& context) {
  constexpr int64_t kColumns = 64;
  parallel_for(context.pool, args.dy.shape[1], kColumns, [&](int64_t begin, int64_t end) {
    ref::embed_backward(
        {args.ids, columns(args.dy, begin, end - begin), columns(args.dtable, begin, end - begin)});
  });
}

}  // namespace

#define MOEBIUS_ROWS_BACKWARD(op, Args, ...)                                                      \
  std::span<const Candidate<Args>> host_##op() {                                                  \
    static constexpr Candidate<Args> kCandidates[] = {__VA_ARGS__,                                \
                                                      grad_reference<Args, ref::op>(#op "_ref")}; \
    return kCandidates;                                                                           \
  }
#define MOEBIUS_AVX2(fast) \
  { #fast, needs_avx2, fast }
#define MOEBIUS_ROWS(fast) \
  { #fast, declines_nothing, fast }

MOEBIUS_ROWS_BACKWARD(rms_norm_backward, RmsNormBackwardArgs, MOEBIUS_AVX2(rms_norm_backward_avx2),
                      MOEBIUS_ROWS(rms_norm_backward_rows))
MOEBIUS_ROWS_BACKWARD(swiglu_backward, SwigluBackwardArgs, MOEBIUS_AVX2(swiglu_backward_avx2),
                      MOEBIUS_ROWS(swiglu_backward_rows))
MOEBIUS_ROWS_BACKWARD(router_backward, RouterBackwardArgs, MOEBIUS_ROWS(router_backward_rows))
MOEBIUS_ROWS_BACKWARD(balance_backward, BalanceBackwardArgs, MOEBIUS_ROWS(balance_backward_sequences))
MOEBIUS_ROWS_BACKWARD(cross_entropy, CrossEntropyArgs, MOEBIUS_AVX2(cross_entropy_avx2),
                      MOEBIUS_ROWS(cross_entropy_rows))
MOEBIUS_ROWS_BACKWARD(embed_backward, EmbedBackwardArgs, MOEBIUS_ROWS(embed_backward_columns))

}  // namespace moebius
