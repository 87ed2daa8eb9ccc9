// PrunePlan: how wide every routed expert is to be, and which neurons it keeps. Pure functions of scores.
//
// TENP (arXiv 2606.09885): of all routed experts a share `full` keeps its width, few in shallow layers and
// more in deep ones; every other expert keeps its best neurons, so that `keep` of all neurons stay. The paper
// does not publish how many full experts a layer has: linear depth weights are a reproduction's choice.
#pragma once

#include <span>

#include "engine/prune/scores.h"

namespace moebius {

enum class PruneMethod : uint8_t {
  kTenp,    // full experts by importance, neurons by score
  kUsage,   // as kTenp, full experts by the tokens routed to them
  kGate,    // as kTenp, full experts by the sum of their gate weights
  kRandom,  // as kTenp, experts and neurons at random
  kEnp,     // the same width for all experts, neurons by score
  kDrop,    // whole experts by importance, as many from each layer; they leave the router too
};
const char* method_name(PruneMethod method);  // "tenp"

struct PruneRequest {
  PruneMethod method = PruneMethod::kTenp;
  double keep = 0.6;                       // of all neurons of routed experts, in (0, 1]
  double full = -1;                        // of the experts, in [0, keep]; -1: keep / 2
  double first_depth = 1, last_depth = 2;  // how many full experts the first and the last MoE layer have, in
                                           // proportion; between them linear
  int64_t multiple = 0;                    // widths are multiples of it; 0: default_multiple()
  uint64_t seed = 1;                       // kRandom
  bool halves = false;                     // as PrunePlan's
};

struct PrunePlan {
  PruneMethod method = PruneMethod::kTenp;
  int64_t width = 0;  // of every expert before
  int64_t multiple = 1;
  std::vector<std::vector<int64_t>> widths;  // [MoE layer][expert]; kDrop: 0 or width
  // [MoE layer][expert]: neurons, ascending; with halves first those of the major half, ascending, then the
  // others.
  std::vector<std::vector<std::vector<int32_t>>> kept;
  // Every expert becomes two, its better neurons and the others (DualSparse-MoE, arXiv 2508.18376): ids 2e
  // and 2e + 1, whose rows of the router are equal, so that a token chooses both. A router that takes twice
  // as many then computes what it did, up to the order of sums.
  bool halves = false;
  int64_t major_width(int64_t of) const { return (of / multiple + 1) / 2 * multiple; }
  int64_t neurons() const;  // all that stay
  int64_t neurons_before() const;
  bool uniform() const;  // experts that are there have one width
  int64_t widest() const;
  int64_t experts_kept() const;  // of each layer
};

// `total` things over layers in proportion to weights that go linearly from first to last, none above `most`;
// what rounding leaves goes to the largest remainders, and of equal ones to the deeper layer. total <= layers
// * most; weights >= 0, not both 0.
std::vector<int64_t> trapezoid(int64_t total, int64_t layers, int64_t most, double first, double last);

// What formats and kernels like, as far as the width allows: 64 (128 for FP8 blocks); the columns of a packed
// matrix's scale at least; in narrow experts less, an eighth of the width.
int64_t default_multiple(const ModelFiles& model);

// kInvalid: numbers out of range, a multiple that does not divide the width or that the format cannot hold,
// and a budget that leaves an expert, or a half, without a neuron, or a token without experts: each with what
// would do. kUnsupported: halves of a router that looks at the two best experts of a group.
Result<PrunePlan> plan_pruning(const ModelFiles& model, const PruneScores& scores,
                               const PruneRequest& request);

}  // namespace moebius
