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

// Parts of it. Bytes by class and place; 0 device_bytes: there is no device.
std::string rows_text(const std::vector<PlaceRow>& rows, int64_t device_bytes, int64_t ram_bytes);
nlohmann::ordered_json rows_json(const std::vector<PlaceRow>& rows);
int64_t disk_bytes(const std::vector<PlaceRow>& rows);
std::string speeds_text(const Speeds& speeds);
nlohmann::ordered_json speeds_json(const Speeds& speeds);
std::string ms_text(double seconds);  // in milliseconds, without the unit

nlohmann::ordered_json plan_json(const PlanReport& report);
std::string plan_table(const PlanReport& report);

}  // namespace moebius
