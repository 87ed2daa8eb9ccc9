// Products of tokens with a matrix and the adapter it may carry, for the references.
#pragma once

#include <vector>

#include "kernels/ref/rounded.h"

namespace moebius::ref {

// sum over c of row[c] * x[c]
inline double row_dot(const Tensor& m, int64_t row, const float* x) {
  double sum = 0;
  for (int64_t c = 0; c < m.shape[1]; ++c)
    sum += static_cast<double>(m.f32()[row * m.stride[0] + c]) * static_cast<double>(x[c]);
  return sum;
}

// a x: [rank]
inline std::vector<float> inner(const Lora& lora, const float* x) {
  std::vector<float> mid(static_cast<size_t>(lora.a.shape[0]));
  for (size_t i = 0; i < mid.size(); ++i)
    mid[i] = static_cast<float>(row_dot(lora.a, static_cast<int64_t>(i), x));
  return mid;
}

// y [rows] += scale b (a x)
inline void add_adapter(const Lora& lora, const float* x, float* y) {
  const std::vector<float> mid = inner(lora, x);
  for (int64_t r = 0; r < lora.b.shape[0]; ++r)
    y[r] = static_cast<float>(y[r] + lora.scale * row_dot(lora.b, r, mid.data()));
}

// y [rows] = w x, plus scale b (a x) of an adapter that is not merged. x: one token, from it as w reads it.
inline void product(const Matrix& w, const Activations& x, float* y) {
  reference_kernels(w.format).dot_rows(w, 0, w.rows, x, nullptr, 1, y, w.rows);
  if (w.adapted()) add_adapter(*w.lora, x.x, y);
}

}  // namespace moebius::ref
