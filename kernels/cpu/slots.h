// The slots of expert_ffn and its backward, sorted by expert: an expert's weights are read once for all its
// tokens.
#pragma once

#include "kernels/cpu/host.h"

namespace moebius {

struct SortedSlots {  // those in use, by expert, then by token and k
  int64_t count = 0;
  int32_t *token, *k;  // [count]
  int64_t* first;      // [n_experts + 1]
  int32_t* place;      // [n * k]: where a slot stands in the order, -1 for none
};
// Slots of experts that are elsewhere count as not in use.
SortedSlots sort_slots(const Tensor& ids, const ExpertWeights* experts, int64_t n_experts, Scratch& scratch);

}  // namespace moebius
