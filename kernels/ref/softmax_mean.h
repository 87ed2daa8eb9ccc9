// The heart of attention, for the references: softmax of scores, then the weighted mean of values.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace moebius::ref {

// out[i] = sum over j of softmax(scores)[j] * value(j)[i], all in double.
template <class Value>  // const double* value(j), dim numbers
void softmax_mean(const std::vector<double>& scores, int64_t dim, const Value& value, float* out) {
  const double highest = *std::max_element(scores.begin(), scores.end());
  std::vector<double> mean(static_cast<size_t>(dim));
  double sum = 0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const double p = std::exp(scores[j] - highest);
    const double* v = value(static_cast<int64_t>(j));
    sum += p;
    for (int64_t i = 0; i < dim; ++i) mean[i] += p * v[i];
  }
  for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(mean[i] / sum);
}

inline double dot(const float* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace moebius::ref
