#include <algorithm>
#include <vector>

#include "kernels/grad_ops.h"
#include "kernels/ref/adapted.h"
#include "kernels/ref/swiglu_backward.h"

namespace moebius::ref {
namespace {

struct Slot {
  int64_t token, k;
};

// The slots that one expert serves, as linear's backward sees them.
class Served {
 public:
  Served(const ExpertFfnBackwardArgs& args, int64_t expert, std::vector<Slot> slots)
      : args_(args), e_(args.experts[expert]), slots_(std::move(slots)) {
    const int64_t hidden = args.x.shape[1];
    for (const Slot& slot : slots_) {
      append(x_, args.x.f32() + slot.token * args.x.stride[0], hidden);
      append(dy_, args.dy.f32() + slot.token * args.dy.stride[0], hidden);
    }
    h_.resize(slots_.size() * static_cast<size_t>(e_.gate.rows));
    dgate_ = dup_ = dh_ = h_;
    dx_.resize(x_.size());
  }

  void pass_back(const ExpertGradients& gradients) {
    Matrix fixed = e_.down;  // what flows through it, before the weight of the slot
    Lora no_gradients;
    if (fixed.lora) no_gradients = *fixed.lora, no_gradients.da = no_gradients.db = Tensor();
    if (fixed.lora) fixed.lora = &no_gradients;
    linear_backward({fixed, {}, of(dy_), of(dh_), {}, {}});
    for (size_t i = 0; i < slots_.size(); ++i) differentiate(i);
    linear_backward({e_.down, of(h_), of(dy_), {}, gradients.down, {}});
    const Tensor dx = args_.dslots.empty() ? Tensor() : of(dx_);
    linear_backward({e_.gate, of(x_), of(dgate_), dx, gradients.gate, {}});
    linear_backward({e_.up, of(x_), of(dup_), dx, gradients.up, {}});
  }

  const float* dx(size_t slot) const { return dx_.data() + slot * static_cast<size_t>(args_.x.shape[1]); }

 private:
  static void append(std::vector<float>& to, const float* from, int64_t count) {
    to.insert(to.end(), from, from + count);
  }
  Tensor of(std::vector<float>& rows) const {
    const int64_t n = static_cast<int64_t>(slots_.size());
    return f32_tensor(rows.data(), {n, static_cast<int64_t>(rows.size()) / n});
  }
  // dh becomes that of the weighted slot, dy too.
  void differentiate(size_t i) {
    const int64_t hidden = args_.x.shape[1], width = e_.gate.rows;
    const Slot& slot = slots_[i];
    std::vector<float> gate(static_cast<size_t>(width)), up(gate);
    Activations x;
    x.x = x_.data() + i * static_cast<size_t>(hidden), x.ld = x.cols = hidden;
    product(e_.gate, x, gate.data());
    product(e_.up, x, up.data());
    const float weight = args_.weights.f32()[slot.token * args_.weights.stride[0] + slot.k];
    double along = 0;
    for (size_t j = 0; j < gate.size(); ++j) {
      const size_t at = i * gate.size() + j;
      const SwigluSlope slope = swiglu_slope(gate[j], up[j]);
      const double dh = weight * static_cast<double>(dh_[at]);
      h_[at] = static_cast<float>(slope.up * up[j]);
      along += static_cast<double>(dh_[at]) * slope.up * up[j];
      dgate_[at] = static_cast<float>(dh * slope.gate);
      dup_[at] = static_cast<float>(dh * slope.up);
    }
    for (int64_t c = 0; c < hidden; ++c)
      dy_[i * static_cast<size_t>(hidden) + static_cast<size_t>(c)] *= weight;
    if (!args_.dweights.empty())
      args_.dweights.f32()[slot.token * args_.dweights.stride[0] + slot.k] = static_cast<float>(along);
  }

  const ExpertFfnBackwardArgs& args_;
  const ExpertWeights& e_;
  const std::vector<Slot> slots_;
  std::vector<float> x_, dy_, dx_;           // [slots, hidden]
  std::vector<float> h_, dgate_, dup_, dh_;  // [slots, width]
};

}  // namespace

void expert_ffn_backward(const ExpertFfnBackwardArgs& args) {
  const int64_t n = args.x.shape[0], hidden = args.x.shape[1], k = args.ids.shape[1];
  std::vector<std::vector<Slot>> slots(static_cast<size_t>(args.n_experts));
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t id = args.ids.i32()[t * args.ids.stride[0] + s];
      if (id >= 0 && !args.experts[id].elsewhere())
        slots[static_cast<size_t>(id)].push_back({t, s});
      else if (id < 0 && !args.dweights.empty())
        args.dweights.f32()[t * args.dweights.stride[0] + s] = 0;
    }
  }
  for (size_t e = 0; e < slots.size(); ++e) {
    if (slots[e].empty()) continue;
    Served served(args, static_cast<int64_t>(e), slots[e]);
    served.pass_back(args.gradients ? args.gradients[e] : ExpertGradients{});
    for (size_t i = 0; i < slots[e].size() && !args.dslots.empty(); ++i)
      std::copy_n(served.dx(i), hidden,
                  args.dslots.f32() + slots[e][i].token * args.dslots.stride[0] +
                      slots[e][i].k * args.dslots.stride[1]);
  }
}

}  // namespace moebius::ref
