#include "kernels/parallel.h"

#include <algorithm>
#include <atomic>
#ifndef _OPENMP
#include <thread>
#include <vector>
#endif

#include "kernels/status.h"

namespace moebius {
namespace {

struct Job {
  int64_t n, grain, ranges;
  void (*body)(int64_t, int64_t, void*);
  void* context;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t r; (r = next.fetch_add(1, std::memory_order_relaxed)) < ranges;)
      body(r * grain, std::min(n, (r + 1) * grain), context);
  }
};

}  // namespace

void parallel_for_ranges(int threads, int64_t n, int64_t grain, void (*body)(int64_t, int64_t, void*),
                         void* context) {
  MOEBIUS_CHECK(grain > 0);
  if (n <= 0) return;
  Job job{n, grain, (n - 1) / grain + 1, body, context};
  const int team = static_cast<int>(std::min<int64_t>(threads, job.ranges));
  if (team <= 1) return job.work();
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
  job.work();
#else
  std::vector<std::thread> helpers;
  for (int i = 1; i < team; ++i) helpers.emplace_back([&job] { job.work(); });
  job.work();
  for (std::thread& helper : helpers) helper.join();
#endif
}

}  // namespace moebius
