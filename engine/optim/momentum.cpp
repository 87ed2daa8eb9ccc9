#include <cmath>

#include <fmt/format.h>

#include "engine/optim/parts.h"

namespace moebius::optim {
namespace {

Status check_average(const char* name, double value) {
  if (value >= 0 && value < 1) return Status();
  return invalid(fmt::format("optimizer: {} is {}, but must be at least 0 and below 1", name, value));
}

template <class Body>
void each(const PartContext& context, MatrixView u, Body&& body) {
  context.team.blocks(u.size(), kBlockElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace

Status HeavyBall::check() const { return check_average("momentum", static_cast<double>(mu)); }

void HeavyBall::apply(PartContext& context, MatrixView u) const {
  float* m = context.state[0];
  each(context, u, [&](int64_t i) {
    const float g = u.data[i];
    m[i] = mu * m[i] + g;
    u.data[i] = nesterov ? g + mu * m[i] : m[i];
  });
}

Status EmaMomentum::check() const { return check_average("momentum", static_cast<double>(beta)); }

void EmaMomentum::apply(PartContext& context, MatrixView u) const {
  float* m = context.state[0];
  each(context, u, [&](int64_t i) {
    const float g = u.data[i];
    m[i] += (1 - beta) * (g - m[i]);
    u.data[i] = nesterov ? g + beta * (m[i] - g) : m[i];
  });
}

Status AdamMoments::check() const {
  MOEBIUS_TRY(check_average("beta1", beta1));
  MOEBIUS_TRY(check_average("beta2", beta2));
  if (eps > 0 && std::isfinite(eps)) return Status();
  return invalid(fmt::format("optimizer: eps is {}, but must be above 0", eps));
}

void AdamMoments::apply(PartContext& context, MatrixView u) const {
  float *m = context.state[0], *v = context.state[1];
  const double t = static_cast<double>(context.step);
  const float correction1 = static_cast<float>(1 - std::pow(beta1, t));
  const float root2 = static_cast<float>(std::sqrt(1 - std::pow(beta2, t)));
  const float take1 = static_cast<float>(1 - beta1), take2 = static_cast<float>(1 - beta2);
  const float keep2 = static_cast<float>(beta2), floor = static_cast<float>(eps);
  each(context, u, [&](int64_t i) {
    const float g = u.data[i];
    m[i] += take1 * (g - m[i]);
    v[i] = keep2 * v[i] + take2 * (g * g);
    u.data[i] = m[i] / correction1 / (std::sqrt(v[i]) / root2 + floor);
  });
}

}  // namespace moebius::optim
