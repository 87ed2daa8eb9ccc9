// Row-wise inner loops of backward operations, in float32. n >= 0 numbers; any alignment. Those named _avx2
// are called only where the processor has it; the others choose.
#pragma once

#include <cstdint>

namespace moebius {

// With h = silu(gate) * up and dh the gradient of factor * h: dgate and dup, and factor * h. Each output may
// be any input, or null. Returns dh . h.
struct SwigluGradientRow {
  const float *gate, *up, *dh;
  float factor;
  float *dgate, *dup, *h;
};
float swiglu_gradient_row(const SwigluGradientRow& row, int64_t n, bool avx2);
float swiglu_gradient_row_avx2(const SwigluGradientRow& row, int64_t n);

// Of rms_norm: dx += and dweight +=, each may be null.
struct RmsNormGradientRow {
  const float *x, *weight, *dy;
  float eps;
  float *dx, *dweight;
};
void rms_norm_gradient_row_avx2(const RmsNormGradientRow& row, int64_t n);

// logits become weight * (softmax - onehot(target)); returns weight * -log softmax[target].
float cross_entropy_row_avx2(float* logits, int64_t n, int64_t target, float weight);

float dot_row(const float* a, const float* b, int64_t n, bool avx2);
float dot_row_avx2(const float* a, const float* b, int64_t n);

inline void add_row(const float* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// Raw scores become softmax(scale * scores), and dp, its gradient, that of the raw scores: scale * p * (dp -
// center). Returns the highest of scale * score. n > 0.
float softmax_gradient_row(float* scores, float* dp, int64_t n, float scale, float center, bool avx2);
float softmax_gradient_row_avx2(float* scores, float* dp, int64_t n, float scale, float center);

}  // namespace moebius
