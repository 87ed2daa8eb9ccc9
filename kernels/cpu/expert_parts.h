// What expert_ffn_backward is cut into: parts of one expert's slots each, a task of one thread. Where an
// expert has several parts, each part has sums of gradients of its own, which are added in their order: what
// comes out does not depend on the number of threads.
#pragma once

#include <array>

#include "kernels/cpu/chunk_matrix.h"
#include "kernels/cpu/slots.h"
#include "kernels/grad_ops.h"

namespace moebius {

struct ExpertPart {
  int64_t expert, first, count;    // slots in the sorted order
  bool alone;                      // the expert has no other
  std::array<MatrixSums, 3> sums;  // of gate, up and down
};

std::vector<ExpertPart> cut_experts(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                                    Scratch& scratch);
// What the parts of one expert summed, to where it belongs.
void add_parts(const ExpertFfnBackwardArgs& args, std::span<const ExpertPart> parts, HostContext& context);

// Two implementations of what comes between: on any processor, and of frozen experts with AVX-512.
void run_parts_by_gemm(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                       const std::vector<ExpertPart>& parts, HostContext& context);
void run_parts_by_panels(const ExpertFfnBackwardArgs& args, const SortedSlots& sorted,
                         const std::vector<ExpertPart>& parts, HostContext& context);

}  // namespace moebius
