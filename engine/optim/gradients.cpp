#include "engine/optim/gradients.h"

#include <cmath>

#include <fmt/format.h>

namespace moebius::optim {
namespace {

Status locate(const NamedGradient& gradient) {
  const MatrixView g = gradient.values;
  for (int64_t i = 0; i < g.size(); ++i) {
    if (std::isfinite(g.data[i])) continue;
    return invalid(
        fmt::format("gradient of {} is {} at [{}, {}]", gradient.name, g.data[i], i / g.cols, i % g.cols));
  }
  return Status();
}

}  // namespace

Status check_gradients(std::span<const NamedGradient> gradients, const Team& team) {
  return clip_gradients(gradients, HUGE_VAL, team).status();
}

Result<double> clip_gradients(std::span<const NamedGradient> gradients, double max_norm, const Team& team) {
  if (!(max_norm > 0))
    return invalid(fmt::format("the largest gradient norm is {}, but must be above 0", max_norm));
  double sum = 0;
  for (const NamedGradient& gradient : gradients) {
    // Squares of finite float32 numbers are far from the end of float64: a sum that is not finite means one.
    const double squares = sum_of_squares(team, gradient.values.values());
    if (!std::isfinite(squares)) MOEBIUS_TRY(locate(gradient));
    sum += squares;
  }
  const double norm = std::sqrt(sum), factor = max_norm / (norm + 1e-6);
  if (factor < 1) {
    for (const NamedGradient& gradient : gradients)
      scale(team, gradient.values.values(), static_cast<float>(factor));
  }
  return norm;
}

}  // namespace moebius::optim
