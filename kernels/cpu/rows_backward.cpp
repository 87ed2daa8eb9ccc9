// Backward operations whose tokens, or columns, stand apart: the references on slices, one a thread.
#include <algorithm>

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

void cross_entropy_rows(const CrossEntropyArgs& args, HostContext& context) {
  parallel_for(context.pool, args.logits.shape[0], grain(args.logits.shape[1]),
               [&](int64_t begin, int64_t end) {
                 const int64_t count = end - begin;
                 ref::cross_entropy({args.logits.rows(begin, count), args.targets.rows(begin, count),
                                     part(args.weights, begin, count), args.loss.rows(begin, count)});
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

#define MOEBIUS_ROWS_BACKWARD(op, Args, fast)                                                     \
  std::span<const Candidate<Args>> host_##op() {                                                  \
    static constexpr Candidate<Args> kCandidates[] = {{#fast, declines_nothing<Args>, fast},      \
                                                      grad_reference<Args, ref::op>(#op "_ref")}; \
    return kCandidates;                                                                           \
  }

MOEBIUS_ROWS_BACKWARD(rms_norm_backward, RmsNormBackwardArgs, rms_norm_backward_rows)
MOEBIUS_ROWS_BACKWARD(swiglu_backward, SwigluBackwardArgs, swiglu_backward_rows)
MOEBIUS_ROWS_BACKWARD(router_backward, RouterBackwardArgs, router_backward_rows)
MOEBIUS_ROWS_BACKWARD(cross_entropy, CrossEntropyArgs, cross_entropy_rows)
MOEBIUS_ROWS_BACKWARD(embed_backward, EmbedBackwardArgs, embed_backward_columns)

}  // namespace moebius
