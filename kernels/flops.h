// How many floating-point operations of products an operation takes at least, a multiply and an add each
// counting one: what its time is a share of. As Traffic counts bytes. 0 for operations that multiply no
// matrices.
#pragma once

#include <vector>

#include "kernels/grad_ops.h"

namespace moebius {

class Flops {
 public:
  template <class Args>
  static double of(const Args&) {
    return 0;
  }
  static double of(const LinearArgs& args) { return product(args.w, rows(args.x)); }
  static double of(const LinearBackwardArgs& args) {
    const double products = double(!args.dx.empty()) + double(!args.dw.empty());
    return backward(args.w, rows(args.dy), products, !args.dx.empty());
  }
  static double of(const RouterArgs& args) { return product(args.gate, rows(args.x)); }
  static double of(const MlaPrefillArgs& args) {
    return product(args.kv_b, rows(args.q) + double(args.first)) +
           seen(args.first, args.q.shape[0]) * double(args.q.shape[1] * (args.nope + args.rope + args.v_dim));
  }
  static double of(const AttentionArgs& args) {
    return seen(args.first, args.q.shape[0]) * double(args.q.shape[1] * (args.k_dim + args.v_dim));
  }
  // Scores and dp again, then dq, dk and dv.
  static double of(const AttentionBackwardArgs& args) {
    double pairs = 0;
    for (size_t i = 0; i + 1 < args.starts.size(); ++i) pairs += seen(0, args.starts[i + 1] - args.starts[i]);
    return pairs * double(args.q.shape[1] * (3 * args.q.shape[2] + 2 * args.v.shape[2]));
  }
  static double of(const ExpertFfnArgs& args) {
    double sum = 0;
    for_each_expert(args, [&](const ExpertWeights& e, double n) {
      sum += product(e.gate, n) + product(e.up, n) + product(e.down, n);
    });
    return sum;
  }
  // Gate and up again, dh, and dx by both; gradients of weights where they are wanted.
  static double of(const ExpertFfnBackwardArgs& args) {
    double sum = 0;
    for_each_expert(args, [&](const ExpertWeights& e, double n) {
      const ExpertGradients* d = args.gradients ? args.gradients + (&e - args.experts) : nullptr;
      const bool dx = !args.dslots.empty();
      sum += product(e.gate, n) + product(e.up, n);
      sum += backward(e.gate, n, double(dx) + double(d && !d->gate.empty()), dx);
      sum += backward(e.up, n, double(dx) + double(d && !d->up.empty()), dx);
      sum += backward(e.down, n, 1 + double(d && !d->down.empty()), true);
    });
    return sum;
  }

 private:
  static double rows(const Tensor& x) { return double(x.shape[0]); }
  static double adapter(const Matrix& w) {
    return w.lora ? 2.0 * double(w.lora->a.shape[0] * (w.rows + w.cols)) : 0;
  }
  static double product(const Matrix& w, double n) {
    return n * (2.0 * double(w.rows * w.cols) + (w.adapted() ? adapter(w) : 0));
  }
  // So many products with w itself; of the adapter dx, and for its gradients x a^T again and two sums.
  static double backward(const Matrix& w, double n, double products, bool dx) {
    double sum = products * 2.0 * double(w.rows * w.cols);
    if (w.lora && (dx || !w.lora->da.empty())) sum += adapter(w);
    if (w.lora && !w.lora->db.empty()) sum += adapter(w);
    return n * sum;
  }
  // Twice the pairs of a query and a key that it sees.
  static double seen(int64_t first, int64_t n) { return double(n) * double(2 * first + n + 1); }
  template <class Args, class Body>
  static void for_each_expert(const Args& args, const Body& body) {
    std::vector<int64_t> slots(static_cast<size_t>(args.n_experts));
    for (int64_t i = 0; i < args.ids.numel(); ++i)
      if (args.ids.i32()[i] >= 0) ++slots[static_cast<size_t>(args.ids.i32()[i])];
    for (size_t e = 0; e < slots.size(); ++e)
      if (slots[e] > 0) body(args.experts[e], double(slots[e]));
  }
};

}  // namespace moebius
