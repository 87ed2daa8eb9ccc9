// parallel_for: the one door to threads for compute. OpenMP underneath, plain threads under MOEBIUS_TSAN.
#pragma once

#include <cstdint>
#include <type_traits>

namespace moebius {

// Calls body(begin, end, context) over disjoint ranges that cover [0, n), each at most `grain` long and
// starting at a multiple of grain, on up to `threads` threads; returns when all are done. Ranges are handed
// out as threads become free, so the result must not depend on who runs which. Must not be nested.
void parallel_for_ranges(int threads, int64_t n, int64_t grain, void (*body)(int64_t, int64_t, void*),
                         void* context);

template <class Body>  // body(int64_t begin, int64_t end)
void parallel_for(int threads, int64_t n, int64_t grain, Body&& body) {
  parallel_for_ranges(
      threads, n, grain,
      [](int64_t begin, int64_t end, void* context) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(begin, end);
      },
      &body);
}

}  // namespace moebius
