#include "engine/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moebius::optim {
namespace {

double ratio(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
}

double half_cosine(double progress) { return 0.5 * (1 + std::cos(std::numbers::pi * progress)); }

double falling(Decay shape, double progress) {
  switch (shape) {
    case Decay::kLinear:
      return 1 - progress;
    case Decay::kCosine:
      return half_cosine(progress);
    case Decay::kOneMinusSqrt:
      break;
  }
  return 1 - std::sqrt(progress);
}

}  // namespace

double warmup_cosine(int64_t step, int64_t warmup, int64_t total, double floor) {
  if (step < warmup) return ratio(step, warmup);
  if (step >= total) return floor;
  return floor + (1 - floor) * half_cosine(ratio(step - warmup, total - warmup));
}

double warmup_stable_decay(int64_t step, int64_t warmup, int64_t stable, int64_t decay, double floor,
                           Decay shape) {
  if (step < warmup) return ratio(step, warmup) * (1 - floor) + floor;
  if (step < warmup + stable) return 1;
  if (step >= warmup + stable + decay) return floor;
  const double progress = ratio(step - warmup - stable, decay);
  return floor + (1 - floor) * falling(shape, progress);
}

}  // namespace moebius::optim
