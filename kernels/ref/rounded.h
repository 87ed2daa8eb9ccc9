// Tokens for the reference operations: float32 rows, with their int8 form where a matrix asks for it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/quant.h"

namespace moebius::ref {

class Rounded {  // borrows x [n, cols], rows ld apart
 public:
  Rounded(const float* x, int64_t n, int64_t cols, int64_t ld) : n_(n) {
    view_.x = x, view_.ld = ld, view_.cols = cols;
  }
  // As w reads it; valid until this object dies.
  const Activations& for_matrix(const Matrix& w, bool exact_activations) {
    exact_ = view_, exact_.q = nullptr;
    if (!is_integer(w.format) || exact_activations) return exact_;
    if (q_.empty()) quantize();
    return view_;
  }

 private:
  void quantize() {
    const int64_t groups = view_.groups();
    q_.resize(static_cast<size_t>(n_ * groups * kActivationGroup + 1));
    scale_.resize(static_cast<size_t>(n_ * groups));
    sum_.resize(static_cast<size_t>(n_ * groups));
    for (int64_t i = 0; i < n_; ++i)
      quantize_activations(view_.x + i * view_.ld, view_.cols, q_.data() + i * groups * kActivationGroup,
                           scale_.data() + i * groups, sum_.data() + i * groups);
    view_.q = q_.data(), view_.scale = scale_.data(), view_.sum = sum_.data();
  }

  int64_t n_;
  Activations view_, exact_;
  std::vector<int8_t> q_;
  std::vector<float> scale_;
  std::vector<int32_t> sum_;
};

inline const FormatKernels& reference_kernels(Format format) { return format_kernels(format).back(); }

}  // namespace moebius::ref
