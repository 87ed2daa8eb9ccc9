// The MoE feed-forward on the device: what its kernels are given, and the ends of its two products.
#pragma once

#include "kernels/cuda/experts.h"

namespace moebius::cuda {

struct Ffn {
  const Expert* experts = nullptr;
  const ExpertAdapters* adapters = nullptr;
  SlotOrder slots;
  Inputs x, h;             // h by number in the order of slots
  float* h_out = nullptr;  // as h.x; null: not needed in float32
  int64_t widest = 0, hidden = 0;
  float *mid_gate = nullptr, *mid_up = nullptr, *mid_down = nullptr;  // [slots, rank]
  int32_t rank = 0;
  float* y = nullptr;
  int64_t y_token = 0, y_slot = 0;  // strides
};

__device__ inline Adapter adapter_of(const LoraView& lora, const float* mid, int32_t ld) {
  return {lora.a ? lora.b : nullptr, mid, lora.rank, ld};
}

// Row r of h of slot number `at` from the products with gate and up.
__device__ inline float activate(const Ffn& f, int32_t expert, int64_t r, int64_t at, float gate, float up) {
  if (f.adapters) {
    const ExpertAdapters& adapters = f.adapters[expert];
    gate += adapter_part(adapter_of(adapters.gate, f.mid_gate, f.rank), r, at);
    up += adapter_part(adapter_of(adapters.up, f.mid_up, f.rank), r, at);
  }
  return gate / (1.0f + expf(-gate)) * up;
}

// Writes row r of down's product to its slot.
__device__ inline void finish_down(const Ffn& f, int32_t expert, int64_t r, int64_t at, float value) {
  if (f.adapters) value += adapter_part(adapter_of(f.adapters[expert].down, f.mid_down, f.rank), r, at);
  const int64_t slot = f.slots.slot(at);
  f.y[slot / f.slots.k * f.y_token + slot % f.slots.k * f.y_slot + r] = value;
}

// For many slots to an expert: both products by large tiles (expert_ffn_large.cu). Tiles of slots are of
// kLargeTokens. The first writes h in float32, zeros in rows past an expert's width up to a multiple of
// kLargeRows or h.ld, and leaves the rest, which the second does not read; then h.plain, h.even_odd
// or h.split are to be made of it, as down's format wants.
void expert_up_large(Context& context, Format format, const Ffn& f);
void expert_down_large(Context& context, Format format, const Ffn& f);

// Blocks for that many tiles of slots and rows each, of which fewer may be in use.
int64_t ffn_blocks(Context& context, const Ffn& f, int64_t rows, int64_t rows_of_block);

}  // namespace moebius::cuda
