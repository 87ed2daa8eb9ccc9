#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "kernels/ref/rounded.h"

namespace moebius {

void ref::expert_ffn(const ExpertFfnArgs& args, bool exact_activations) {
  const int64_t n = args.x.shape[0], hidden = args.x.shape[1], k = args.ids.shape[1];
  for (int64_t t = 0; t < n; ++t) {
    Rounded x(args.x.f32() + t * args.x.stride[0], 1, hidden, hidden);
    for (int64_t slot = 0; slot < k; ++slot) {
      const int32_t id = args.ids.i32()[t * args.ids.stride[0] + slot];
      if (id < 0) continue;
      const ExpertWeights& expert = args.experts[id];
      const int64_t width = expert.gate.rows;
      std::vector<float> gate(static_cast<size_t>(width)), up(gate);
      reference_kernels(expert.gate.format)
          .dot_rows(expert.gate, 0, width, x.for_matrix(expert.gate, exact_activations), nullptr, 1,
                    gate.data(), width);
      reference_kernels(expert.up.format)
          .dot_rows(expert.up, 0, width, x.for_matrix(expert.up, exact_activations), nullptr, 1, up.data(),
                    width);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
      Rounded h(gate.data(), 1, width, width);
      reference_kernels(expert.down.format)
          .dot_rows(expert.down, 0, hidden, h.for_matrix(expert.down, exact_activations), nullptr, 1,
                    args.slots.f32() + t * args.slots.stride[0] + slot * args.slots.stride[1], hidden);
    }
  }
}

}  // namespace moebius
