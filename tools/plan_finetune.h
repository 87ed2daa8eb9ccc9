// moebius plan --finetune, on a screen and as JSON.
#pragma once

#include "engine/train/training_plan.h"
#include "tools/plan_text.h"

namespace moebius {

struct TrainingReport {
  PlanReport model;  // without its plan
  TrainingShape shape;
  TrainingBytes bytes;
  TrainingBudgets budgets;
  TrainingPlan plan;
  TrainingLimits limits;
};

// Fills in all but model and shape.
Status plan_finetune(TrainingReport& report);

nlohmann::ordered_json training_json(const TrainingReport& report);
std::string training_table(const TrainingReport& report);

}  // namespace moebius
