// The backward of the routed experts on the device: what its kernels are given, in the order of their
// launches.
//
// Slots are numbered as SlotOrder sorts them, by expert. What a slot has of hidden activations and their
// gradients, and what goes through adapters, stands in scratch by number; nothing is added up across experts.
#pragma once

#include "kernels/cuda/experts.h"
#include "kernels/cuda/float_product.h"

namespace moebius::cuda::gradient {

enum class Which : int32_t { kGate, kUp, kDown };

struct Experts {
  const Expert* experts = nullptr;
  const ExpertAdapters* adapters = nullptr;  // all that there are; null: none has any
  const ExpertAdapters* applied = nullptr;   // those that are not merged; null: none
  SlotOrder slots;                           // in tiles of kGradLines
  int64_t n_experts = 0;
  int32_t rank = 0;  // rows of mids are this far apart

  __device__ int32_t used() const { return slots.firsts[n_experts - 1] + slots.counts[n_experts - 1]; }
  __device__ int32_t expert_of(int64_t slot) const {
    return slots.ids[slot / slots.k * slots.ids_ld + slot % slots.k];
  }
};

__device__ inline Weight matrix_of(const Expert& e, Which which) {
  return which == Which::kGate ? e.gate : which == Which::kUp ? e.up : e.down;
}
__device__ inline LoraView lora_of(const ExpertAdapters* adapters, int32_t expert, Which which) {
  if (!adapters) return {};
  const ExpertAdapters& all = adapters[expert];
  return which == Which::kGate ? all.gate : which == Which::kUp ? all.up : all.down;
}

// A row of numbers to each slot, by number or, through an index, by token.
struct SlotRows {
  float* at = nullptr;
  int64_t ld = 0;
  const int32_t* index = nullptr;
  bool wide = false;

  // Of the slots up to `end`.
  __device__ FloatView view(int32_t end, int32_t cols) const {
    FloatView v;
    v.at = at, v.ld = ld, v.rows = end, v.cols = cols, v.index = index, v.wide = wide;
    return v;
  }
};
inline SlotRows slot_rows(float* at, int64_t ld, const int32_t* index = nullptr) {
  return {at, ld, index, aligned16(at, ld * static_cast<int64_t>(sizeof(float)))};
}

// The rows of each slot through the adapter of a matrix of its expert: rows a^T, or rows b.
struct Mid {
  SlotRows rows;
  Which which = Which::kGate;
  float* mid = nullptr;
};
void make_mids(Context& context, const Experts& e, Lie lie, const Mid& mid);

// The sum of one or two products, each of a slot's rows with a matrix of its expert and with its adapter.
struct Term {
  SlotRows rows;
  Which which = Which::kGate;
  const float* mid = nullptr;
};
struct Grouped {
  Term terms[2];
  int count = 1;
  int32_t columns = 0;  // of the widest result
  float* out = nullptr;
  int64_t ld = 0;                     // from number to number, or
  int64_t token_ld = 0, slot_ld = 0;  // of the call's slots, where ld is 0
};
// lie: of the matrices: along for w x, across for w^T dy. formats: that some of them have.
void multiply_experts(Context& context, const Experts& e, Lie lie, const bool (&formats)[kFormats],
                      const Grouped& g);

// gate, up and dh = down^T dy become dgate, dup and the weighted h; dweights may be null. Rows start at
// multiples of 16 bytes.
struct Slopes {
  float *gate = nullptr, *up = nullptr, *dh = nullptr;
  int64_t ld = 0;
  const float* weights = nullptr;
  int64_t weights_ld = 0;
  float* dweights = nullptr;
  int64_t dweights_ld = 0;
};
void pass_swiglu(Context& context, const Experts& e, int64_t slots, const Slopes& s);

// C += factor A^T B over the slots of one expert.
struct Outer {
  SlotRows a, b;
  FloatProduct product;  // of which k and the views are found on the device
  int32_t expert = 0;
};
// most_tiles: of one of them.
void add_outers(Context& context, const Experts& e, const Outer* outers, int64_t count, int64_t most_tiles);

// tokens[number] = token of the slot.
void find_tokens(Context& context, const Experts& e, int64_t slots, int32_t* tokens);
// dweights of slots that are not in use = 0.
void clear_unused(Context& context, const Tensor& ids, const Tensor& dweights);

}  // namespace moebius::cuda::gradient
