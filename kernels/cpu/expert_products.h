// Experts with many tokens of a float format, by float32 matrix products.
#pragma once

#include "kernels/cpu/slots.h"

namespace moebius {

struct ExpertGroup {  // the slots of one expert: [first, first + n) of the sorted order
  const ExpertWeights* expert;
  int64_t first, n;
  int64_t all;  // tokens of the call
};

// Not where every matrix of it meets its tokens in parts.
bool goes_by_products(const ExpertGroup& group, const HostContext& context);
void run_by_products(const ExpertFfnArgs& args, const SortedSlots& sorted,
                     std::span<const ExpertGroup> groups, HostContext& context);

}  // namespace moebius
