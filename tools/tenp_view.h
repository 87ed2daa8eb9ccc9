// What `moebius tenp` shows of a plan: a table, a picture, JSON.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "engine/prune/plan.h"

namespace moebius {

struct PlanRow {
  int64_t layer = 0, full = 0;        // experts that stay as wide as they were
  int64_t narrowest = 0, widest = 0;  // of those that are there
  double kept = 0;                    // share of the layer's neurons
  double of_token = 0;                // share of the neurons that a calibration token's experts had
  int64_t least_tokens = 0;           // routed to the layer's rarest expert in the calibration
};
PlanRow plan_row(const PrunePlan& plan, const PruneScores& scores, size_t layer);
PlanRow plan_total(const PrunePlan& plan, const PruneScores& scores);  // of all layers

std::string plan_table(const PrunePlan& plan, const PruneScores& scores);
nlohmann::ordered_json plan_json(const PrunePlan& plan, const PruneScores& scores);
// A row for each MoE layer, its experts by width, the widest first; SVG without scripts or fonts of its own.
std::string plan_picture(const PrunePlan& plan, const PruneScores& scores, const std::string& title);

}  // namespace moebius
