// A key/value head of a sequence, with its query heads, is a task of one thread. Queries go by in blocks, so
// that memory grows with a sequence's length, not with its square; what the heads add to the shared keys is
// kept apart and summed in their order at the end.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/workers.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

constexpr int64_t kQueries = 32;  // of one head, in a block
constexpr int64_t kGrain = 16;    // tokens

// Memory of one worker, for sequences of n tokens.
struct Workspace {
  Workspace(int64_t n, int64_t dim, Scratch& scratch)
      : key(scratch.take<float>(n * dim)),
        dkey(scratch.take<float>(n * dim)),
        p(scratch.take<float>(kQueries * n)),
        dscore(scratch.take<float>(kQueries * n)) {}
  float *key, *dkey;  // [n, dim]
  float *p, *dscore;  // [queries, keys seen]
};

class HeadTask {
 public:
  HeadTask(const AttentionBackwardArgs& args, int64_t begin, int64_t end, int64_t kv, const Workspace& work,
           bool avx2)
      : args_(args),
        begin_(begin),
        end_(end),
        kv_(kv),
        own_(args.k.shape[2]),
        dim_(args.q.shape[2]),
        v_dim_(args.v.shape[2]),
        work_(work),
        avx2_(avx2) {}

  // dshared: [tokens of the sequence, dim - own], set, or null; highest: [heads], those of this task are set
  void run(float* dshared, float* highest) {
    gather_keys();
    const int64_t group = args_.q.shape[1] / args_.k.shape[1], n = end_ - begin_;
    for (int64_t head = kv_ * group; head < (kv_ + 1) * group; ++head) {
      highest[head] = -INFINITY;
      for (int64_t first = begin_; first < end_; first += kQueries)
        pass_back(head, first, std::min(kQueries, end_ - first), highest[head]);
    }
    for (int64_t t = 0; t < n; ++t) {
      const float* dkey = work_.dkey + t * dim_;
      if (!args_.dk.empty()) add_row(dkey, own_, at(args_.dk, begin_ + t, kv_));
      if (dshared) std::copy(dkey + own_, dkey + dim_, dshared + t * (dim_ - own_));
    }
  }

 private:
  static float* at(const Tensor& t, int64_t token, int64_t head) {
    return t.f32() + token * t.stride[0] + head * t.stride[1];
  }
  void gather_keys() {
    for (int64_t t = begin_; t < end_; ++t) {
      const float* own = at(args_.k, t, kv_);
      float* rest = std::copy(own, own + own_, work_.key + (t - begin_) * dim_);
      if (args_.shared.empty()) continue;
      const float* shared = args_.shared.f32() + t * args_.shared.stride[0];
      std::copy(shared, shared + dim_ - own_, rest);
    }
    std::fill(work_.dkey, work_.dkey + (end_ - begin_) * dim_, 0.0f);
  }

  void pass_back(int64_t head, int64_t first, int64_t count, float& highest) {
    const int64_t keys = first - begin_ + count;  // that the block's last query sees
    const float *q = at(args_.q, first, head), *dout = at(args_.dout, first, head);
    const int64_t ldq = args_.q.stride[0], ldd = args_.dout.stride[0], ldv = args_.v.stride[0];
    gemm_f32(count, keys, dim_, q, ldq, work_.key, dim_, work_.p, keys, false);
    gemm_f32(count, keys, v_dim_, dout, ldd, at(args_.v, begin_, kv_), ldv, work_.dscore, keys, false);
    for (int64_t i = 0; i < count; ++i)
      highest = std::max(highest, differentiate(head, first + i, keys, i * keys));
    if (!args_.dq.empty())
      gemm_f32_xw(count, dim_, keys, work_.dscore, keys, work_.key, dim_, at(args_.dq, first, head),
                  args_.dq.stride[0], true);
    gemm_f32_xtw(keys, dim_, count, work_.dscore, keys, q, ldq, work_.dkey, dim_, true);
    if (!args_.dv.empty())
      gemm_f32_xtw(keys, v_dim_, count, work_.p, keys, dout, ldd, at(args_.dv, begin_, kv_),
                   args_.dv.stride[0], true);
  }

  // One query's row of p, from scores to probabilities, and of dscore, from their gradients to the scores'.
  // Returns the highest score.
  float differentiate(int64_t head, int64_t t, int64_t keys, int64_t row) {
    const int64_t seen = t - begin_ + 1;
    float *p = work_.p + row, *dscore = work_.dscore + row;
    const float mean = dot_row(at(args_.out, t, head), at(args_.dout, t, head), v_dim_, avx2_);
    const float highest = softmax_gradient_row(p, dscore, seen, args_.scale, mean, avx2_);
    std::fill(p + seen, p + keys, 0.0f), std::fill(dscore + seen, dscore + keys, 0.0f);
    return highest;
  }

  const AttentionBackwardArgs& args_;
  const int64_t begin_, end_, kv_, own_, dim_, v_dim_;
  const Workspace& work_;
  const bool avx2_;
};

// dshared += what each head gave, heads ascending.
void add_dshared(const AttentionBackwardArgs& args, const float* given, HostContext& context) {
  const int64_t n = args.q.shape[0], kv_heads = args.k.shape[1], rest = args.dshared.shape[1];
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t kv = 0; kv < kv_heads; ++kv)
        add_row(given + (kv * n + t) * rest, rest, args.dshared.f32() + t * args.dshared.stride[0]);
  });
}

void attention_backward_gemm(const AttentionBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], kv_heads = args.k.shape[1],
                rest = args.q.shape[2] - args.k.shape[2];
  if (n == 0) return;
  const int64_t sequences = static_cast<int64_t>(args.starts.size()) - 1;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) longest = std::max(longest, args.starts[s + 1] - args.starts[s]);
  float* dshared = args.dshared.empty() ? nullptr : context.scratch.take<float>(kv_heads * n * rest);
  float* highest = context.scratch.take<float>(sequences * heads);
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, sequences * kv_heads); ++i)
    work.emplace_back(longest, args.q.shape[2], context.scratch);
  for_each_unit(context, sequences * kv_heads, [&](int64_t unit, int64_t worker) {
    const int64_t s = unit / kv_heads, kv = unit % kv_heads, begin = args.starts[s];
    HeadTask(args, begin, args.starts[s + 1], kv, work[static_cast<size_t>(worker)], context.avx2())
        .run(dshared ? dshared + (kv * n + begin) * rest : nullptr, highest + s * heads);
  });
  if (dshared) add_dshared(args, dshared, context);
  for (int64_t i = 0; i < sequences * heads && !args.highest.empty(); ++i)
    args.highest.f32()[i % heads] = std::max(args.highest.f32()[i % heads], highest[i]);
}

}  // namespace

std::span<const Candidate<AttentionBackwardArgs>> host_attention_backward() {
  static constexpr Candidate<AttentionBackwardArgs> kCandidates[] = {
      {"attention_backward_gemm", declines_nothing<AttentionBackwardArgs>, attention_backward_gemm},
      grad_reference<AttentionBackwardArgs, ref::attention_backward>("attention_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
