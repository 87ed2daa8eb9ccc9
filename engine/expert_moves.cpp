#include "engine/expert_moves.h"

#include <algorithm>

namespace moebius {
namespace {

// The moves of one layer: the most used of the host for the least used of the device, then the next.
void add_moves(int64_t layer, const std::vector<bool>& resident, const std::vector<double>& heat,
               const std::vector<int64_t>& bytes, std::vector<ExpertMove>& moves) {
  std::vector<int64_t> here, there;
  for (size_t e = 0; e < resident.size(); ++e)
    (resident[e] ? there : here).push_back(static_cast<int64_t>(e));
  const auto hotter = [&](int64_t a, int64_t b) {
    return heat[static_cast<size_t>(a)] > heat[static_cast<size_t>(b)];
  };
  std::stable_sort(here.begin(), here.end(), hotter);
  std::stable_sort(there.rbegin(), there.rend(), hotter);
  for (const int64_t in : here) {
    const auto out = std::find_if(there.begin(), there.end(), [&](int64_t e) {
      return bytes[static_cast<size_t>(in)] <= bytes[static_cast<size_t>(e)];
    });
    if (out == there.end()) continue;
    if (heat[static_cast<size_t>(in)] < kMoveFactor * heat[static_cast<size_t>(*out)] + kMoveUses) continue;
    moves.push_back({layer, *out, in});
    there.erase(out);
  }
}

}  // namespace

std::vector<ExpertMove> plan_moves(const Residency& residency, const ExpertHeat& heat,
                                   const ExpertBytes& bytes, int64_t most_bytes) {
  std::vector<ExpertMove> moves;
  for (size_t l = 0; l < residency.size(); ++l)
    add_moves(static_cast<int64_t>(l), residency[l], heat[l], bytes[l], moves);
  const auto gain = [&](const ExpertMove& m) {
    const std::vector<double>& of = heat[static_cast<size_t>(m.layer)];
    return of[static_cast<size_t>(m.in)] - of[static_cast<size_t>(m.out)];
  };
  std::stable_sort(moves.begin(), moves.end(),
                   [&](const ExpertMove& a, const ExpertMove& b) { return gain(a) > gain(b); });
  int64_t left = most_bytes;
  bool first = true;
  const auto too_much = [&](const ExpertMove& m) {
    const int64_t needed = bytes[static_cast<size_t>(m.layer)][static_cast<size_t>(m.in)];
    if (needed > left && !first) return true;
    left -= needed, first = false;
    return false;
  };
  moves.erase(std::remove_if(moves.begin(), moves.end(), too_much), moves.end());
  return moves;
}

}  // namespace moebius
