#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ops.h"
#include "kernels/ref/adapted.h"

namespace moebius {

void ref::expert_ffn(const ExpertFfnArgs& args, bool exact_activations) {
  const int64_t n = args.x.shape[0], hidden = args.x.shape[1], k = args.ids.shape[1];
  for (int64_t t = 0; t < n; ++t) {
    Rounded x(args.x.f32() + t * args.x.stride[0], 1, hidden, hidden);
    for (int64_t slot = 0; slot < k; ++slot) {
      const int32_t id = args.ids.i32()[t * args.ids.stride[0] + slot];
      if (id < 0 || args.experts[id].elsewhere()) continue;
      const ExpertWeights& expert = args.experts[id];
      const int64_t width = expert.gate.rows;
      std::vector<float> gate(static_cast<size_t>(width)), up(gate);
      product(expert.gate, x.for_matrix(expert.gate, exact_activations), gate.data());
      product(expert.up, x.for_matrix(expert.up, exact_activations), up.data());
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
      Rounded h(gate.data(), 1, width, width);
      product(expert.down, h.for_matrix(expert.down, exact_activations),
              args.slots.f32() + t * args.slots.stride[0] + slot * args.slots.stride[1]);
    }
  }
}

void ref::take_slots(const TakeSlotsArgs& args, bool) {
  const int64_t hidden = args.from.shape[2];
  for (int64_t t = 0; t < args.ids.shape[0]; ++t) {
    for (int64_t k = 0; k < args.ids.shape[1]; ++k) {
      const int32_t id = args.ids.i32()[t * args.ids.stride[0] + k];
      if (id < 0 || !args.experts[id].elsewhere()) continue;
      std::copy_n(args.from.f32() + t * args.from.stride[0] + k * args.from.stride[1], hidden,
                  args.slots.f32() + t * args.slots.stride[0] + k * args.slots.stride[1]);
    }
  }
}

}  // namespace moebius
