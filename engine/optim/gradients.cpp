#include "engine/optim/gradients.h"

#include <cmath>

#include <fmt/format.h>

namespace moebius::optim {
namespace {

constexpr int64_t kMany = 64;  // gradients for each thread
constexpr int64_t kGrain = 8;

Status locate(const NamedGradient& gradient) {
  const MatrixView g = gradient.values;
  for (int64_t i = 0; i < g.size(); ++i) {
    if (std::isfinite(g.data[i])) continue;
    return invalid(
        fmt::format("gradient of {} is {} at [{}, {}]", gradient.name, g.data[i], i / g.cols, i % g.cols));
  }
  return Status();
}

// body(index, team): thousands of small gradients (adapters of experts) are shared out among the threads, a
// few large ones are each shared by all. The bits are the same.
template <class Body>
void for_each(std::span<const NamedGradient> gradients, const Team& team, const Body& body) {
  if (!team.pool || std::ssize(gradients) < kMany * team.pool->threads()) {
    for (size_t i = 0; i < gradients.size(); ++i) body(i, team);
    return;
  }
  parallel_for(*team.pool, std::ssize(gradients), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(static_cast<size_t>(i), Team{});
  });
}

}  // namespace

Status check_gradients(std::span<const NamedGradient> gradients, const Team& team) {
  return clip_gradients(gradients, HUGE_VAL, team).status();
}

Result<double> clip_gradients(std::span<const NamedGradient> gradients, double max_norm, const Team& team) {
  if (!(max_norm > 0))
    return invalid(fmt::format("the largest gradient norm is {}, but must be above 0", max_norm));
  std::vector<double> squares(gradients.size());
  for_each(gradients, team,
           [&](size_t i, const Team& on) { squares[i] = sum_of_squares(on, gradients[i].values.values()); });
  double sum = 0;
  for (size_t i = 0; i < gradients.size(); ++i) {
    // Squares of finite float32 numbers are far from the end of float64: a sum that is not finite means one.
    if (!std::isfinite(squares[i])) MOEBIUS_TRY(locate(gradients[i]));
    sum += squares[i];
  }
  const double norm = std::sqrt(sum), factor = max_norm / (norm + 1e-6);
  if (factor < 1) {
    for_each(gradients, team, [&](size_t i, const Team& on) {
      scale(on, gradients[i].values.values(), static_cast<float>(factor));
    });
  }
  return norm;
}

}  // namespace moebius::optim
