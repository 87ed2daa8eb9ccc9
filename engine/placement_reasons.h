// A plan's choices in words, and what it keeps back.
#pragma once

#include <string>
#include <vector>

#include "engine/placement.h"

namespace moebius {

// Of a budget, a sixteenth, but not more than `most`, is left to whoever else needs memory there.
struct Reserve {
  int64_t most;
  int64_t of(int64_t budget) const { return budget / 16 < most ? budget / 16 : most; }
  // The least budget of which `used` bytes can be used.
  int64_t budget_for(int64_t used) const { return used < 15 * most ? used + (used + 14) / 15 : used + most; }
};

// Lines, most important first. plan: all but its reasons.
std::vector<std::string> plan_reasons(const ModelPlan& plan, const ModelBytes& model, const Budgets& budgets,
                                      bool heat_known);

}  // namespace moebius
