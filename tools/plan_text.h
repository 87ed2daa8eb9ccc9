// A plan on a screen and as JSON.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "models/config.h"
#include "tools/plan_speeds.h"

namespace moebius {

struct PlanReport {
  std::string model;  // as it was named
  ModelConfig config;
  ModelBytes bytes;
  Budgets budgets;
  Speeds speeds;
  ModelPlan plan;
  std::vector<std::string> notes;
};

nlohmann::ordered_json plan_json(const PlanReport& report);
std::string plan_table(const PlanReport& report);

}  // namespace moebius
