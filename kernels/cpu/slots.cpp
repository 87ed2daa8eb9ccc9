#include "kernels/cpu/slots.h"

#include <algorithm>

namespace moebius {

SortedSlots sort_slots(const Tensor& ids, const ExpertWeights* experts, int64_t n_experts, Scratch& scratch) {
  const int64_t n = ids.shape[0], k = ids.shape[1];
  const auto id_at = [&](int64_t t, int64_t s) {
    const int32_t id = ids.i32()[t * ids.stride[0] + s];
    return id < 0 || experts[id].elsewhere() ? -1 : id;
  };
  SortedSlots sorted;
  sorted.first = scratch.take<int64_t>(n_experts + 1);
  int64_t* next = scratch.take<int64_t>(n_experts + 1);
  std::fill(next, next + n_experts + 1, int64_t{0});
  for (int64_t t = 0; t < n; ++t)
    for (int64_t s = 0; s < k; ++s)
      if (id_at(t, s) >= 0) ++next[id_at(t, s) + 1];
  for (int64_t e = 0; e < n_experts; ++e) next[e + 1] += next[e];
  std::copy(next, next + n_experts + 1, sorted.first);
  sorted.count = next[n_experts];
  sorted.token = scratch.take<int32_t>(sorted.count);
  sorted.k = scratch.take<int32_t>(sorted.count);
  sorted.place = scratch.take<int32_t>(n * k);
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t id = id_at(t, s);
      sorted.place[t * k + s] = id < 0 ? -1 : static_cast<int32_t>(next[id]);
      if (id < 0) continue;
      sorted.token[next[id]] = static_cast<int32_t>(t);
      sorted.k[next[id]++] = static_cast<int32_t>(s);
    }
  }
  return sorted;
}

}  // namespace moebius
