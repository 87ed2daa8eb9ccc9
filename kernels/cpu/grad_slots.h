// The backward of one expert over slots that it serves: what expert_ffn_backward's tasks are made of.
#pragma once

#include <array>

#include "kernels/cpu/host_grad.h"

namespace moebius {

struct Slot {
  int32_t token, k;
};

struct SortedSlots {
  Slot* slot;      // those in use, by expert, then by token and k
  int64_t* first;  // [n_experts + 1]
  int32_t* place;  // [n * k]: where a slot stands in the order, -1 for none
  int64_t widest = 0, most_rank = 0;
};
SortedSlots sort_slots(const ExpertFfnBackwardArgs& args, Scratch& scratch);

// Where the gradients of an expert are summed, each may be empty: three of gate, of up, of down, in the order
// weight, a and b of the adapter.
using ExpertSums = std::array<Tensor, 9>;
ExpertSums expert_sums(const ExpertWeights& e, const ExpertGradients& gradients);
ExpertSums own_sums(const ExpertSums& like, Scratch& scratch);  // zeroed

// Slots that pass together, so that their numbers and some weights stay in a core's cache.
inline constexpr int64_t kChunk = 256;

// Memory of one worker.
struct ChunkMemory {
  ChunkMemory(const SortedSlots& sorted, int64_t hidden, Scratch& scratch);
  float* weights[3];        // a matrix in float32, where it does not lie so
  float *x, *dy;            // [chunk, hidden]
  float *gate, *up, *dh;    // [chunk, width]; then dgate, dup and h
  float *mid[3], *dmid[3];  // [chunk, rank] of an adapter: scale * x a^T, scale * dy b
};

// slots: of one expert. dx: [count, hidden], set, or null.
void run_slots(const ExpertFfnBackwardArgs& args, int64_t expert, const Slot* slots, int64_t count,
               const ExpertSums& sums, float* dx, const ChunkMemory& memory, const HostContext& context);

inline void add_row(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace moebius
