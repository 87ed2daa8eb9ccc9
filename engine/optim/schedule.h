// Learning-rate schedules: pure functions from a step to a factor on the peak rate.
#pragma once

#include <cstdint>

namespace moebius::optim {

// All count steps from 0, the first one taken; factors lie in [0, 1]. floor: the factor at the end.

// Rises by 1 / warmup a step from 0, then half a cosine down to floor at `total`, then floor.
double warmup_cosine(int64_t step, int64_t warmup, int64_t total, double floor = 0);

enum class Decay { kLinear, kCosine, kOneMinusSqrt };
// Warm-up, stable, decay: a linear rise from floor to 1 in `warmup` steps, `stable` steps at 1, `decay` steps
// down to floor, then floor.
double warmup_stable_decay(int64_t step, int64_t warmup, int64_t stable, int64_t decay, double floor = 0,
                           Decay shape = Decay::kLinear);

}  // namespace moebius::optim
