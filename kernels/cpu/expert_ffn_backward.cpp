// Slots are sorted by expert; an expert is a task of one thread, so that its gradients are added in one
// order.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/workers.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

struct Pair {  // one slot in use, slots counted over all tokens
  int32_t token, slot;
};

struct Sorted {
  Pair* pair;      // by expert, then by token and slot
  int64_t* first;  // [n_experts + 1]
  int32_t* place;  // [n * k]: where a slot stands in the order, -1 for none
  int64_t most = 0, widest = 0;
};

Sorted sort_slots(const ExpertFfnBackwardArgs& args, Scratch& scratch) {
  const int64_t n = args.ids.shape[0], k = args.ids.shape[1];
  const auto id_at = [&](int64_t t, int64_t s) { return args.ids.i32()[t * args.ids.stride[0] + s]; };
  Sorted sorted;
  sorted.first = scratch.take<int64_t>(args.n_experts + 1);
  int64_t* next = scratch.take<int64_t>(args.n_experts + 1);
  std::fill(next, next + args.n_experts + 1, int64_t{0});
  for (int64_t t = 0; t < n; ++t)
    for (int64_t s = 0; s < k; ++s)
      if (id_at(t, s) >= 0) ++next[id_at(t, s) + 1];
  for (int64_t e = 0; e < args.n_experts; ++e) {
    if (next[e + 1] > 0) sorted.widest = std::max(sorted.widest, args.experts[e].gate.rows);
    sorted.most = std::max(sorted.most, next[e + 1]);
    next[e + 1] += next[e];
  }
  std::copy(next, next + args.n_experts + 1, sorted.first);
  sorted.pair = scratch.take<Pair>(next[args.n_experts]);
  sorted.place = scratch.take<int32_t>(n * k);
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t id = id_at(t, s);
      sorted.place[t * k + s] = id < 0 ? -1 : static_cast<int32_t>(next[id]);
      if (id >= 0) sorted.pair[next[id]++] = {static_cast<int32_t>(t), static_cast<int32_t>(s)};
    }
  }
  return sorted;
}

// Memory of one worker, for `most` slots of an expert of the greatest width.
struct Workspace {
  Workspace(const Sorted& sorted, int64_t hidden, Scratch& scratch) {
    const int64_t w = sorted.widest, m = sorted.most;
    weights = scratch.take<float>(hidden * w), turned = scratch.take<float>(hidden * w);
    x = scratch.take<float>(m * hidden), dslot = scratch.take<float>(m * hidden);
    for (float** at : {&gate, &up, &dh}) *at = scratch.take<float>(m * w);
    turned_left = scratch.take<float>(m * std::max(hidden, w));
    turned_right = scratch.take<float>(m * std::max(hidden, w));
  }
  float *weights, *turned;            // a matrix, and it transposed
  float *x, *dslot;                   // [m, hidden]
  float *gate, *up, *dh;              // [m, width]; then dgate, dup and h
  float *turned_left, *turned_right;  // factors of a gradient, transposed
};

class ExpertTask {
 public:
  ExpertTask(const ExpertFfnBackwardArgs& args, const Sorted& sorted, int64_t expert, const Workspace& work,
             const HostContext& context)
      : args_(args),
        weights_(args.experts[expert]),
        pair_(sorted.pair + sorted.first[expert]),
        m_(sorted.first[expert + 1] - sorted.first[expert]),
        hidden_(args.x.shape[1]),
        width_(weights_.gate.rows),
        work_(work),
        context_(context) {}

  // dx: [m, hidden], set, or null
  void run(const ExpertGradients* gradients, float* dx) {
    gather();
    multiply(weights_.gate, work_.x, work_.gate);
    multiply(weights_.up, work_.x, work_.up);
    multiply_transposed(weights_.down, work_.dslot, work_.dh, false);
    differentiate();
    if (dx) {
      multiply_transposed(weights_.gate, work_.gate, dx, false);
      multiply_transposed(weights_.up, work_.up, dx, true);
    }
    if (!gradients) return;
    add_outer(work_.gate, width_, work_.x, hidden_, gradients->gate);
    add_outer(work_.up, width_, work_.x, hidden_, gradients->up);
    add_outer(work_.dslot, hidden_, work_.dh, width_, gradients->down);
  }

 private:
  void gather() {
    const size_t bytes = static_cast<size_t>(hidden_) * sizeof(float);
    for (int64_t i = 0; i < m_; ++i) {
      const Pair p = pair_[i];
      std::memcpy(work_.x + i * hidden_, args_.x.f32() + p.token * args_.x.stride[0], bytes);
      std::memcpy(work_.dslot + i * hidden_,
                  args_.dslots.f32() + p.token * args_.dslots.stride[0] + p.slot * args_.dslots.stride[1],
                  bytes);
    }
  }
  void dequantize(const Matrix& w) {
    context_.kernels(w.format).dequantize_rows(w, 0, w.rows, work_.weights, w.cols);
  }
  // y [m, rows] = x w^T
  void multiply(const Matrix& w, const float* x, float* y) {
    dequantize(w);
    gemm_f32(m_, w.rows, w.cols, x, w.cols, work_.weights, w.cols, y, w.rows, false);
  }
  // y [m, cols] = x w, or += x w
  void multiply_transposed(const Matrix& w, const float* x, float* y, bool accumulate) {
    dequantize(w);
    transpose(work_.weights, w.rows, w.cols, w.cols, work_.turned, w.rows);
    gemm_f32(m_, w.cols, w.rows, x, w.rows, work_.turned, w.rows, y, w.cols, accumulate);
  }
  // gate, up, dh become dgate, dup, h.
  void differentiate() {
    for (int64_t i = 0; i < m_ * width_; ++i) {
      const float gate = work_.gate[i], up = work_.up[i], dh = work_.dh[i];
      const float s = 1.0f / (1.0f + std::exp(-gate));
      work_.gate[i] = dh * up * s * (1.0f + gate * (1.0f - s));
      work_.up[i] = dh * gate * s;
      work_.dh[i] = gate * s * up;
    }
  }
  // out += left^T right, of [m, rows] and [m, cols]
  void add_outer(const float* left, int64_t rows, const float* right, int64_t cols, const Tensor& out) {
    if (out.empty()) return;
    transpose(left, m_, rows, rows, work_.turned_left, m_);
    transpose(right, m_, cols, cols, work_.turned_right, m_);
    gemm_f32(rows, cols, m_, work_.turned_left, m_, work_.turned_right, m_, out.f32(), out.stride[0], true);
  }

  const ExpertFfnBackwardArgs& args_;
  const ExpertWeights& weights_;
  const Pair* pair_;
  const int64_t m_, hidden_, width_;
  const Workspace& work_;
  const HostContext& context_;
};

// dx[t] += what its slots gave, ascending.
void add_dx(const ExpertFfnBackwardArgs& args, const Sorted& sorted, const float* slot_dx,
            HostContext& context) {
  constexpr int64_t kGrain = 8;
  const int64_t k = args.ids.shape[1], hidden = args.x.shape[1];
  parallel_for(context.pool, args.x.shape[0], kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * k; i < end * k; ++i) {
      if (sorted.place[i] < 0) continue;
      const float* from = slot_dx + sorted.place[i] * hidden;
      float* dx = args.dx.f32() + i / k * args.dx.stride[0];
      for (int64_t c = 0; c < hidden; ++c) dx[c] += from[c];
    }
  });
}

void expert_ffn_backward_gemm(const ExpertFfnBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const Sorted sorted = sort_slots(args, context.scratch);
  const int64_t hidden = args.x.shape[1], pairs = sorted.first[args.n_experts];
  if (pairs == 0 || hidden == 0) return;
  float* slot_dx = args.dx.empty() ? nullptr : context.scratch.take<float>(pairs * hidden);
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, args.n_experts); ++i)
    work.emplace_back(sorted, hidden, context.scratch);
  for_each_unit(context, args.n_experts, [&](int64_t e, int64_t worker) {
    const int64_t first = sorted.first[e], count = sorted.first[e + 1] - first;
    float* dx = slot_dx ? slot_dx + first * hidden : nullptr;
    if (count == 0) return;
    if (args.experts[e].gate.rows == 0) {
      if (dx) std::fill(dx, dx + count * hidden, 0.0f);
      return;
    }
    ExpertTask(args, sorted, e, work[static_cast<size_t>(worker)], context)
        .run(args.gradients ? args.gradients + e : nullptr, dx);
  });
  if (slot_dx) add_dx(args, sorted, slot_dx, context);
}

}  // namespace

std::span<const Candidate<ExpertFfnBackwardArgs>> host_expert_ffn_backward() {
  static constexpr Candidate<ExpertFfnBackwardArgs> kCandidates[] = {
      {"expert_ffn_backward_gemm", declines_nothing<ExpertFfnBackwardArgs>, expert_ffn_backward_gemm},
      grad_reference<ExpertFfnBackwardArgs, ref::expert_ffn_backward>("expert_ffn_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
