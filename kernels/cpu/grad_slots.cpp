#include "kernels/cpu/grad_slots.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/grad_rows.h"
#include "kernels/cpu/products.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

// One of an expert's matrices, with what passes through it.
class Side {
 public:
  Side(const Matrix& w, const Tensor* sums, float* copy, float* mid, float* dmid, const HostContext& context)
      : w_(w), dw_(sums[0]), da_(sums[1]), db_(sums[2]), mid_(mid), dmid_(dmid) {
    values_ = static_cast<const float*>(w.data);
    if (float32_in_place(w)) return;
    context.kernels(w.format).dequantize_rows(w, 0, w.rows, copy, w.cols);
    values_ = copy;
  }

  // y [n, rows] = x w^T
  void product(int64_t n, const float* x, float* y) {
    gemm_f32(n, w_.rows, w_.cols, x, w_.cols, values_, w_.cols, y, w_.rows, false);
    if (w_.adapted() || !db_.empty()) meet(n, x);
    if (w_.adapted()) gemm_f32(n, w_.rows, rank(), mid_, rank(), w_.lora->b.f32(), rank(), y, w_.rows, true);
  }
  // What db needs of x; product has seen to it if it was called with this x.
  void meet(int64_t n, const float* x) {
    gemm_f32(n, rank(), w_.cols, x, w_.cols, w_.lora->a.f32(), w_.cols, mid_, rank(), false);
    scale(mid_, n * rank());
  }
  bool wants_meeting() const { return !db_.empty(); }

  // dx [n, cols] (+)= dy w, unless dx is null
  void pass_back(int64_t n, const float* dy, float* dx, bool accumulate) {
    if (dx) gemm_f32_xw(n, w_.cols, w_.rows, dy, w_.rows, values_, w_.cols, dx, w_.cols, accumulate);
    const bool passes_on = dx && w_.adapted();
    if (!passes_on && da_.empty()) return;
    gemm_f32_xw(n, rank(), w_.rows, dy, w_.rows, w_.lora->b.f32(), rank(), dmid_, rank(), false);
    scale(dmid_, n * rank());
    if (passes_on)
      gemm_f32_xw(n, w_.cols, rank(), dmid_, rank(), w_.lora->a.f32(), w_.cols, dx, w_.cols, true);
  }

  // Sums over n slots; mid and dmid have been made.
  void add_sums(int64_t n, const float* x, const float* dy) {
    if (!dw_.empty()) add_outer(n, dy, w_.rows, x, w_.cols, dw_);
    if (!da_.empty()) add_outer(n, dmid_, rank(), x, w_.cols, da_);
    if (!db_.empty()) add_outer(n, dy, w_.rows, mid_, rank(), db_);
  }

 private:
  static void add_outer(int64_t n, const float* left, int64_t rows, const float* right, int64_t cols,
                        const Tensor& out) {
    gemm_f32_xtw(rows, cols, n, left, rows, right, cols, out.f32(), out.stride[0], true);
  }
  int64_t rank() const { return w_.lora->a.shape[0]; }
  void scale(float* values, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) values[i] *= w_.lora->scale;
  }

  const Matrix& w_;
  const Tensor dw_, da_, db_;
  const float* values_;
  float *mid_, *dmid_;
};

void gather(const ExpertFfnBackwardArgs& args, const Slot* slots, int64_t n, const ChunkMemory& memory) {
  const int64_t hidden = args.x.shape[1];
  const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(memory.x + i * hidden, args.x.f32() + slots[i].token * args.x.stride[0], bytes);
    std::memcpy(memory.dy + i * hidden, args.dy.f32() + slots[i].token * args.dy.stride[0], bytes);
  }
}

// gate, up and dh become dgate, dup and the weighted h.
void differentiate(const ExpertFfnBackwardArgs& args, const Slot* slots, int64_t n, int64_t width,
                   const ChunkMemory& memory, bool avx2) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t t = slots[i].token, k = slots[i].k;
    float *gate = memory.gate + i * width, *up = memory.up + i * width, *dh = memory.dh + i * width;
    const float weight = args.weights.f32()[t * args.weights.stride[0] + k];
    const float along = swiglu_gradient_row({gate, up, dh, weight, gate, up, dh}, width, avx2);
    if (!args.dweights.empty()) args.dweights.f32()[t * args.dweights.stride[0] + k] = along;
  }
}

}  // namespace

SortedSlots sort_slots(const ExpertFfnBackwardArgs& args, Scratch& scratch) {
  const int64_t n = args.ids.shape[0], k = args.ids.shape[1];
  const auto id_at = [&](int64_t t, int64_t s) { return args.ids.i32()[t * args.ids.stride[0] + s]; };
  SortedSlots sorted;
  sorted.first = scratch.take<int64_t>(args.n_experts + 1);
  int64_t* next = scratch.take<int64_t>(args.n_experts + 1);
  std::fill(next, next + args.n_experts + 1, int64_t{0});
  for (int64_t t = 0; t < n; ++t)
    for (int64_t s = 0; s < k; ++s)
      if (id_at(t, s) >= 0) ++next[id_at(t, s) + 1];
  for (int64_t e = 0; e < args.n_experts; ++e) {
    const ExpertWeights& expert = args.experts[e];
    if (next[e + 1] > 0) {
      sorted.widest = std::max(sorted.widest, expert.gate.rows);
      for (const Matrix* w : {&expert.gate, &expert.up, &expert.down})
        if (w->lora) sorted.most_rank = std::max(sorted.most_rank, w->lora->a.shape[0]);
    }
    next[e + 1] += next[e];
  }
  std::copy(next, next + args.n_experts + 1, sorted.first);
  sorted.slot = scratch.take<Slot>(next[args.n_experts]);
  sorted.place = scratch.take<int32_t>(n * k);
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t id = id_at(t, s);
      sorted.place[t * k + s] = id < 0 ? -1 : static_cast<int32_t>(next[id]);
      if (id >= 0) sorted.slot[next[id]++] = {static_cast<int32_t>(t), static_cast<int32_t>(s)};
    }
  }
  return sorted;
}

ExpertSums expert_sums(const ExpertWeights& e, const ExpertGradients& gradients) {
  const auto da = [](const Matrix& w) { return w.lora ? w.lora->da : Tensor(); };
  const auto db = [](const Matrix& w) { return w.lora ? w.lora->db : Tensor(); };
  return {gradients.gate, da(e.gate),     db(e.gate), gradients.up, da(e.up),
          db(e.up),       gradients.down, da(e.down), db(e.down)};
}

ExpertSums own_sums(const ExpertSums& like, Scratch& scratch) {
  ExpertSums own;
  for (size_t i = 0; i < own.size(); ++i) {
    if (like[i].empty()) continue;
    own[i] = f32_tensor(scratch.take<float>(like[i].numel()), {like[i].shape[0], like[i].shape[1]});
    std::fill_n(own[i].f32(), like[i].numel(), 0.0f);
  }
  return own;
}

ChunkMemory::ChunkMemory(const SortedSlots& sorted, int64_t hidden, Scratch& scratch) {
  for (float*& at : weights) at = scratch.take<float>(sorted.widest * hidden);
  x = scratch.take<float>(kChunk * hidden), dy = scratch.take<float>(kChunk * hidden);
  for (float** at : {&gate, &up, &dh}) *at = scratch.take<float>(kChunk * sorted.widest);
  for (int i = 0; i < 3; ++i) {
    mid[i] = scratch.take<float>(kChunk * sorted.most_rank);
    dmid[i] = scratch.take<float>(kChunk * sorted.most_rank);
  }
}

void run_slots(const ExpertFfnBackwardArgs& args, int64_t expert, const Slot* slots, int64_t count,
               const ExpertSums& sums, float* dx, const ChunkMemory& memory, const HostContext& context) {
  const ExpertWeights& e = args.experts[expert];
  const int64_t hidden = args.x.shape[1], width = e.gate.rows;
  const auto side = [&](const Matrix& w, int i) {
    return Side(w, sums.data() + 3 * i, memory.weights[i], memory.mid[i], memory.dmid[i], context);
  };
  Side gate = side(e.gate, 0), up = side(e.up, 1), down = side(e.down, 2);
  for (int64_t first = 0; first < count; first += kChunk) {
    const int64_t n = std::min(kChunk, count - first);
    float* chunk_dx = dx ? dx + first * hidden : nullptr;
    gather(args, slots + first, n, memory);
    gate.product(n, memory.x, memory.gate);
    up.product(n, memory.x, memory.up);
    down.pass_back(n, memory.dy, memory.dh, false);
    differentiate(args, slots + first, n, width, memory, context.avx2);
    if (down.wants_meeting()) down.meet(n, memory.dh);
    gate.pass_back(n, memory.gate, chunk_dx, false);
    up.pass_back(n, memory.up, chunk_dx, true);
    gate.add_sums(n, memory.x, memory.gate);
    up.add_sums(n, memory.x, memory.up);
    down.add_sums(n, memory.dh, memory.dy);
  }
}

}  // namespace moebius
