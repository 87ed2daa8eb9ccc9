#include <vector>

#include "kernels/grad_ops.h"
#include "kernels/ref/rounded.h"
#include "kernels/ref/swiglu_backward.h"

namespace moebius::ref {
namespace {

struct Hit {  // one slot that an expert served
  const float *x, *dslot;
  std::vector<float> h, dgate, dup;  // [width]
};

std::vector<float> product(const Matrix& w, const float* x) {
  Activations exact;
  exact.x = x, exact.ld = exact.cols = w.cols;
  std::vector<float> y(static_cast<size_t>(w.rows));
  reference_kernels(w.format).dot_rows(w, 0, w.rows, exact, nullptr, 1, y.data(), w.rows);
  return y;
}

Hit pass_back(const ExpertWeights& expert, const float* x, const float* dslot) {
  const std::vector<float> gate = product(expert.gate, x), up = product(expert.up, x);
  std::vector<float> dh(gate.size());
  reference_kernels(expert.down.format).axpy_rows(expert.down, 0, expert.down.rows, dslot, dh.data());
  Hit hit{x, dslot, dh, dh, dh};
  for (size_t i = 0; i < dh.size(); ++i) {
    const SwigluSlope slope = swiglu_slope(gate[i], up[i]);
    hit.h[i] = static_cast<float>(slope.up * up[i]);
    hit.dgate[i] = static_cast<float>(dh[i] * slope.gate);
    hit.dup[i] = static_cast<float>(dh[i] * slope.up);
  }
  return hit;
}

// out[r, c] += sum over hits of left(hit)[r] * right(hit)[c]
template <class Left, class Right>
void add_outer(const std::vector<Hit>& hits, const Left& left, const Right& right, const Tensor& out) {
  if (out.empty()) return;
  for (int64_t r = 0; r < out.shape[0]; ++r) {
    float* row = out.f32() + r * out.stride[0];
    for (int64_t c = 0; c < out.shape[1]; ++c) {
      double sum = row[c];
      for (const Hit& hit : hits) sum += static_cast<double>(left(hit)[r]) * right(hit)[c];
      row[c] = static_cast<float>(sum);
    }
  }
}

}  // namespace

void expert_ffn_backward(const ExpertFfnBackwardArgs& args) {
  std::vector<std::vector<Hit>> hits(static_cast<size_t>(args.n_experts));
  for (int64_t t = 0; t < args.x.shape[0]; ++t) {
    for (int64_t slot = 0; slot < args.ids.shape[1]; ++slot) {
      const int32_t id = args.ids.i32()[t * args.ids.stride[0] + slot];
      if (id < 0) continue;
      const ExpertWeights& e = args.experts[id];
      Hit hit = pass_back(e, args.x.f32() + t * args.x.stride[0],
                          args.dslots.f32() + t * args.dslots.stride[0] + slot * args.dslots.stride[1]);
      if (!args.dx.empty()) {
        float* dx = args.dx.f32() + t * args.dx.stride[0];
        reference_kernels(e.gate.format).axpy_rows(e.gate, 0, e.gate.rows, hit.dgate.data(), dx);
        reference_kernels(e.up.format).axpy_rows(e.up, 0, e.up.rows, hit.dup.data(), dx);
      }
      hits[id].push_back(std::move(hit));
    }
  }
  const auto x = [](const Hit& hit) { return hit.x; };
  for (int64_t e = 0; e < args.n_experts && args.gradients; ++e) {
    const ExpertGradients& out = args.gradients[e];
    add_outer(
        hits[e], [](const Hit& hit) { return hit.dgate.data(); }, x, out.gate);
    add_outer(
        hits[e], [](const Hit& hit) { return hit.dup.data(); }, x, out.up);
    add_outer(
        hits[e], [](const Hit& hit) { return hit.dslot; }, [](const Hit& hit) { return hit.h.data(); },
        out.down);
  }
}

}  // namespace moebius::ref
