// for_each_unit: parallel_for for bodies that need scratch memory of their own.
#pragma once

#include <algorithm>
#include <atomic>

#include "kernels/cpu/host.h"

namespace moebius {

inline int worker_count(const HostContext& context, int64_t units) {
  return static_cast<int>(std::clamp<int64_t>(units, 1, std::max(1, context.threads)));
}

// Calls body(unit, worker) once for every unit in [0, units); worker is in [0, worker_count(context, units))
// and no two calls with the same worker run at once.
template <class Body>
void for_each_unit(HostContext& context, int64_t units, const Body& body) {
  std::atomic<int64_t> next{0};
  const int workers = worker_count(context, units);
  parallel_for(context.pool, workers, 1, [&](int64_t worker, int64_t) {
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) body(unit, worker);
  });
}

// The same, where a body can make use of what comes next: body(unit, the next one of this worker or `units`,
// worker). Units are taken one ahead.
template <class Body>
void for_each_foreseen_unit(HostContext& context, int64_t units, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto take = [&] { return std::min(units, next.fetch_add(1, std::memory_order_relaxed)); };
  const int workers = worker_count(context, units);
  parallel_for(context.pool, workers, 1, [&](int64_t worker, int64_t) {
    for (int64_t unit = take(), after; unit < units; unit = after) {
      after = take();
      body(unit, after, worker);
    }
  });
}

}  // namespace moebius
