// Statistics of a few measurements that others on the machine disturb.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace moebius {

inline double median(std::vector<double> values) {  // 0 of none
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

struct Interval {
  double low = 0, high = 0;
};

// Two of the values, which hold the median of what they were drawn from in at least 95 % of cases, however that
// is distributed: the k-th of n is above it as often as n throws of a coin give fewer than k heads. Of fewer
// than six values the least and the greatest, which is less certain. Zeros of none.
inline Interval median_interval(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  size_t outer = 0;  // values left out at either end
  double exactly = std::exp2(-static_cast<double>(n)), at_most = exactly;  // so many heads, as a probability
  for (size_t heads = 1; heads < n / 2; ++heads) {
    exactly *= static_cast<double>(n - heads + 1) / static_cast<double>(heads), at_most += exactly;
    if (at_most > 0.025) break;
    outer = heads;
  }
  return {values[outer], values[n - 1 - outer]};
}

}  // namespace moebius
