// Rows of silu(gate) * up and of its derivatives: with AVX2, or plain. n >= 0 numbers, any alignment.
#pragma once

#include <cstdint>

namespace moebius {

// y = silu(gate) * up; y may be gate or up.
void swiglu_row(const float* gate, const float* up, int64_t n, float* y, bool avx2);

// With h = silu(gate) * up and dh the gradient of factor * h: dgate and dup, and factor * h. Each output may
// be any input. Returns dh . h.
struct SwigluGradientRow {
  const float *gate, *up, *dh;
  float factor;
  float *dgate, *dup, *h;
};
float swiglu_gradient_row(const SwigluGradientRow& row, int64_t n, bool avx2);

}  // namespace moebius
