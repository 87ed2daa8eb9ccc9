#include "engine/optim/assignment.h"

#include <fmt/format.h>

namespace moebius::optim {

Result<Rule> rule_of(std::string_view name, std::optional<Role> role, std::span<const int64_t> shape) {
  if (shape.size() == 1) return name.ends_with(".e_score_correction_bias") ? Rule::kBalance : Rule::kAdamW1D;
  if (shape.size() != 2 || !role) {
    return invalid(
        fmt::format("optimizer: tensor {} has {} dimensions{}; matrices with a role and vectors can "
                    "be trained",
                    name, shape.size(), role ? "" : " and no role"));
  }
  return *role == Role::kEmbed || *role == Role::kHead ? Rule::kAdamW : Rule::kMuon;
}

void balance_bias(std::span<const int64_t> load, float gamma, std::span<float> bias) {
  MOEBIUS_CHECK(load.size() == bias.size());
  double total = 0;
  for (int64_t tokens : load) total += static_cast<double>(tokens);
  const double n = static_cast<double>(load.size());
  for (size_t e = 0; e < load.size(); ++e) {
    const double excess = static_cast<double>(load[e]) * n - total;  // exact below 2^53: no rounded mean
    if (excess < 0) bias[e] += gamma;
    if (excess > 0) bias[e] -= gamma;
  }
}

}  // namespace moebius::optim
