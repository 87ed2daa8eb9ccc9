#include "kernels/cpu/grad_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moebius {

float swiglu_gradient_row(const SwigluGradientRow& row, int64_t n, bool avx2) {
  if (avx2) return swiglu_gradient_row_avx2(row, n);
  float along = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float gate = row.gate[i], up = row.up[i], dh = row.dh[i];
    // 1 - s as e * s keeps its digits where s is close to 1; where e overflows, s is 0 and so is all of it.
    const float e = std::exp(-gate), s = 1.0f / (1.0f + e);
    const float rest = std::min(std::numeric_limits<float>::max(), e) * s, silu = gate * s;
    if (row.dgate) row.dgate[i] = row.factor * dh * up * (s * (1.0f + gate * rest));
    if (row.dup) row.dup[i] = row.factor * dh * silu;
    if (row.h) row.h[i] = row.factor * (silu * up);
    along += dh * (silu * up);
  }
  return along;
}

float dot_row(const float* a, const float* b, int64_t n, bool avx2) {
  if (avx2) return dot_row_avx2(a, b, n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return static_cast<float>(sum);
}

float softmax_gradient_row(float* scores, float* dp, int64_t n, float scale, float center, bool avx2) {
  if (avx2) return softmax_gradient_row_avx2(scores, dp, n, scale, center);
  float highest = -INFINITY;
  for (int64_t i = 0; i < n; ++i) highest = std::max(highest, scores[i] *= scale);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += scores[i] = std::exp(scores[i] - highest);
  const float norm = static_cast<float>(1 / sum);
  for (int64_t i = 0; i < n; ++i) {
    scores[i] *= norm;
    dp[i] = scale * scores[i] * (dp[i] - center);
  }
  return highest;
}

}  // namespace moebius
