// A key/value head with its query heads is a task of one thread. Queries go by in blocks, so that memory
// grows with n, not n^2; what the heads add to the shared keys is kept apart and summed in their order at the
// end.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/workers.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

constexpr int64_t kQueries = 64;  // of one head, in a block

// Memory of one worker.
struct Workspace {
  Workspace(int64_t n, int64_t dim, int64_t v_dim, Scratch& scratch)
      : key(scratch.take<float>(n * dim)),
        key_turned(scratch.take<float>(n * dim)),
        dkey(scratch.take<float>(n * dim)),
        p(scratch.take<float>(kQueries * n)),
        dscore(scratch.take<float>(kQueries * n)),
        turned(scratch.take<float>(kQueries * n)),
        q_turned(scratch.take<float>(kQueries * std::max(dim, v_dim))) {}
  float *key, *key_turned, *dkey;  // [n, dim], [dim, n], [n, dim]
  float *p, *dscore;               // [queries, keys seen]
  float *turned, *q_turned;        // factors of a sum over queries, transposed
};

class HeadTask {
 public:
  HeadTask(const AttentionBackwardArgs& args, int64_t kv, const Workspace& work)
      : args_(args),
        kv_(kv),
        n_(args.q.shape[0]),
        own_(args.k.shape[2]),
        dim_(args.q.shape[2]),
        v_dim_(args.v.shape[2]),
        work_(work) {}

  // dshared: [n, dim - own], set, or null
  void run(float* dshared) {
    gather_keys();
    const int64_t group = args_.q.shape[1] / args_.k.shape[1];
    for (int64_t head = kv_ * group; head < (kv_ + 1) * group; ++head)
      for (int64_t first = 0; first < n_; first += kQueries)
        pass_back(head, first, std::min(kQueries, n_ - first));
    for (int64_t t = 0; t < n_; ++t) {
      const float* dkey = work_.dkey + t * dim_;
      for (int64_t i = 0; i < own_ && !args_.dk.empty(); ++i) at(args_.dk, t, kv_)[i] += dkey[i];
      if (dshared) std::copy(dkey + own_, dkey + dim_, dshared + t * (dim_ - own_));
    }
  }

 private:
  static float* at(const Tensor& t, int64_t token, int64_t head) {
    return t.f32() + token * t.stride[0] + head * t.stride[1];
  }
  void gather_keys() {
    for (int64_t t = 0; t < n_; ++t) {
      const float* own = at(args_.k, t, kv_);
      float* rest = std::copy(own, own + own_, work_.key + t * dim_);
      if (args_.shared.empty()) continue;
      const float* shared = args_.shared.f32() + t * args_.shared.stride[0];
      std::copy(shared, shared + dim_ - own_, rest);
    }
    transpose(work_.key, n_, dim_, dim_, work_.key_turned, n_);
    std::fill(work_.dkey, work_.dkey + n_ * dim_, 0.0f);
  }

  void pass_back(int64_t head, int64_t first, int64_t count) {
    const int64_t keys = first + count;  // that the block's last query sees
    const float *q = at(args_.q, first, head), *dout = at(args_.dout, first, head);
    const int64_t ldq = args_.q.stride[0], ldd = args_.dout.stride[0];
    gemm_f32(count, keys, dim_, q, ldq, work_.key, dim_, work_.p, keys, false);
    gemm_f32(count, keys, v_dim_, dout, ldd, at(args_.v, 0, kv_), args_.v.stride[0], work_.dscore, keys,
             false);
    for (int64_t i = 0; i < count; ++i) differentiate(head, first + i, keys, i * keys);
    if (!args_.dq.empty())
      gemm_f32(count, dim_, keys, work_.dscore, keys, work_.key_turned, n_, at(args_.dq, first, head),
               args_.dq.stride[0], true);
    add_outer(work_.dscore, keys, q, ldq, dim_, count, work_.dkey, dim_);
    if (!args_.dv.empty())
      add_outer(work_.p, keys, dout, ldd, v_dim_, count, at(args_.dv, 0, kv_), args_.dv.stride[0]);
  }

  // One query's row of p, from scores to probabilities, and of dscore, from their gradients to the scores'.
  void differentiate(int64_t head, int64_t t, int64_t keys, int64_t row) {
    float *p = work_.p + row, *dscore = work_.dscore + row;
    float highest = -INFINITY;
    for (int64_t j = 0; j <= t; ++j) highest = std::max(highest, p[j] *= args_.scale);
    double sum = 0, mean = 0;
    for (int64_t j = 0; j <= t; ++j) sum += p[j] = std::exp(p[j] - highest);
    const float *out = at(args_.out, t, head), *dout = at(args_.dout, t, head);
    for (int64_t i = 0; i < v_dim_; ++i) mean += static_cast<double>(out[i]) * dout[i];
    const float norm = static_cast<float>(1 / sum), center = static_cast<float>(mean);
    for (int64_t j = 0; j <= t; ++j) {
      p[j] *= norm;
      dscore[j] = args_.scale * p[j] * (dscore[j] - center);
    }
    std::fill(p + t + 1, p + keys, 0.0f), std::fill(dscore + t + 1, dscore + keys, 0.0f);
  }

  // out [keys, d] += left^T right, of [count, keys] and [count, d]
  void add_outer(const float* left, int64_t keys, const float* right, int64_t ld, int64_t d, int64_t count,
                 float* out, int64_t ld_out) {
    transpose(left, count, keys, keys, work_.turned, count);
    transpose(right, count, d, ld, work_.q_turned, count);
    gemm_f32(keys, d, count, work_.turned, count, work_.q_turned, count, out, ld_out, true);
  }

  const AttentionBackwardArgs& args_;
  const int64_t kv_, n_, own_, dim_, v_dim_;
  const Workspace& work_;
};

void attention_backward_gemm(const AttentionBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = args.q.shape[0], kv_heads = args.k.shape[1], rest = args.q.shape[2] - args.k.shape[2];
  if (n == 0) return;
  float* dshared = args.dshared.empty() ? nullptr : context.scratch.take<float>(kv_heads * n * rest);
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, kv_heads); ++i)
    work.emplace_back(n, args.q.shape[2], args.v.shape[2], context.scratch);
  for_each_unit(context, kv_heads, [&](int64_t kv, int64_t worker) {
    HeadTask(args, kv, work[static_cast<size_t>(worker)]).run(dshared ? dshared + kv * n * rest : nullptr);
  });
  constexpr int64_t kGrain = 16;
  parallel_for(context.pool, dshared ? n : 0, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t kv = 0; kv < kv_heads; ++kv)
        for (int64_t i = 0; i < rest; ++i)
          args.dshared.f32()[t * args.dshared.stride[0] + i] += dshared[(kv * n + t) * rest + i];
  });
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
