// Which experts change places between device and host, from how often they are used. Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace moebius {

// [layer][expert]: on the device. A dense layer has none.
using Residency = std::vector<std::vector<bool>>;
// [layer][expert]: recent uses, older ones weighing less; >= 0.
using ExpertHeat = std::vector<std::vector<double>>;
using ExpertBytes = std::vector<std::vector<int64_t>>;  // [layer][expert]

struct ExpertMove {
  int64_t layer = 0;
  int64_t out = 0, in = 0;  // experts: from the device, and to its place there
};

// An expert on the host takes the place of one on the device that it outweighs by this factor and this many
// uses. Without the margin, experts of equal use would change places for ever.
inline constexpr double kMoveFactor = 1.5, kMoveUses = 4;

// The moves that gain most uses, within a layer each, of at most `most_bytes` together, or one; an expert
// moves once and fits the place it takes.
std::vector<ExpertMove> plan_moves(const Residency& residency, const ExpertHeat& heat,
                                   const ExpertBytes& bytes, int64_t most_bytes);

}  // namespace moebius
