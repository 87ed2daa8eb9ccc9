#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/grad_ops.h"

namespace moebius::ref {
namespace {

const float* at(const Tensor& t, int64_t token, int64_t head) {
  return t.f32() + token * t.stride[0] + head * t.stride[1];
}

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Sums of a [n, heads, d] gradient in double, added to it at the end.
class Sums {
 public:
  explicit Sums(const Tensor& out) : out_(out), sums_(out.empty() ? 0 : static_cast<size_t>(out.numel())) {}
  // sums of (token, head) += factor * x
  void add(int64_t token, int64_t head, double factor, const float* x) {
    if (out_.empty()) return;
    double* sum = sums_.data() + (token * out_.shape[1] + head) * out_.shape[2];
    for (int64_t i = 0; i < out_.shape[2]; ++i) sum[i] += factor * x[i];
  }
  void store() const {
    if (out_.empty()) return;
    size_t next = 0;
    for (int64_t t = 0; t < out_.shape[0]; ++t)
      for (int64_t h = 0; h < out_.shape[1]; ++h)
        for (int64_t i = 0; i < out_.shape[2]; ++i) {
          float& to = out_.f32()[t * out_.stride[0] + h * out_.stride[1] + i];
          to = static_cast<float>(to + sums_[next++]);
        }
  }

 private:
  Tensor out_;
  std::vector<double> sums_;
};

// [n, d] as [n, 1, d]: what all heads share has one head.
Tensor one_head(Tensor t) {
  if (t.empty()) return t;
  t.ndim = 3, t.shape[2] = t.shape[1], t.stride[2] = t.stride[1], t.shape[1] = 1, t.stride[1] = 0;
  return t;
}

// scale * q . key of query (t, h) and keys first .. t
std::vector<double> scores(const AttentionBackwardArgs& args, const Tensor& shared, int64_t first, int64_t t,
                           int64_t h, int64_t kv) {
  const int64_t own = args.k.shape[2], rest = args.q.shape[2] - own;
  const float* q = at(args.q, t, h);
  std::vector<double> s;
  for (int64_t j = first; j <= t; ++j) {
    const double score = dot(q, at(args.k, j, kv), own) + (rest ? dot(q + own, at(shared, j, 0), rest) : 0.0);
    s.push_back(args.scale * score);
  }
  return s;
}

void softmax(std::vector<double>& p) {
  const double highest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - highest);
  for (double& x : p) x /= sum;
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  const int64_t heads = args.q.shape[1], own = args.k.shape[2], v_dim = args.v.shape[2];
  const int64_t group = heads / args.k.shape[1];
  const Tensor shared = one_head(args.shared);
  const bool dq_wanted = !args.dq.empty();
  const Tensor dq_own = dq_wanted ? args.dq.slice(2, 0, own) : args.dq;
  const Tensor dq_shared = dq_wanted && !shared.empty() ? args.dq.slice(2, own, shared.shape[2]) : Tensor();
  Sums q_own(dq_own), q_shared(dq_shared), k(args.dk), k_shared(one_head(args.dshared)), v(args.dv);
  for (size_t i = 0; i + 1 < args.starts.size(); ++i) {
    const int64_t first = args.starts[i];
    for (int64_t t = first; t < args.starts[i + 1]; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t kv = h / group;
        const float *q = at(args.q, t, h), *dout = at(args.dout, t, h);
        std::vector<double> p = scores(args, shared, first, t, h, kv);
        if (!args.highest.empty())
          for (const double score : p)
            args.highest.f32()[h] = std::max(args.highest.f32()[h], static_cast<float>(score));
        softmax(p);
        const double mean = dot(dout, at(args.out, t, h), v_dim);  // of the gradients of p, weighted by p
        for (int64_t j = first; j <= t; ++j) {
          const double weight = p[static_cast<size_t>(j - first)];
          const double dscore = args.scale * weight * (dot(dout, at(args.v, j, kv), v_dim) - mean);
          q_own.add(t, h, dscore, at(args.k, j, kv));
          k.add(j, kv, dscore, q);
          v.add(j, kv, weight, dout);
          if (shared.empty()) continue;
          q_shared.add(t, h, dscore, at(shared, j, 0));
          k_shared.add(j, 0, dscore, q + own);
        }
      }
    }
  }
  for (const Sums* sums : {&q_own, &q_shared, &k, &k_shared, &v}) sums->store();
}

}  // namespace moebius::ref
