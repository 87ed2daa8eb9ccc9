// Packing: float32 rows to the integer formats of quant.h, by the scales that lose least.
//
// A group of columns w with importances h >= 0 gets a scale s and codes q = nearest integer to w / s, clamped
// to the format's range, that make sum h (w - s q)^2 small: the best of a grid of clipping factors, each
// judged by the scale as it will be stored, then moved to the least-squares scale of its codes while that
// helps (a grid of factors as in AWQ, arXiv 2306.00978, section 3.2). The sign of s is such that the group's
// largest number falls on the side of -8 or -128. A group that the format holds exactly is stored exactly,
// with s > 0. A group of zeros gets scale 1.
//
// The bytes depend on the numbers alone, not on threads or instruction set.
#pragma once

#include "kernels/quant.h"

namespace moebius {

struct PackFormat {
  Format format = Format::kInt4;     // kInt4 or kInt8
  int64_t group = kActivationGroup;  // columns per scale, a multiple of kActivationGroup
  DType scale_dtype = DType::kBF16;  // kBF16, kF16 or kF32

  int64_t row_bytes(int64_t cols) const;    // of codes
  int64_t scale_bytes(int64_t cols) const;  // of a row's scales
};

struct PackError {
  double error = 0, square = 0;  // sums of (w - s q)^2 and of w^2, without importances
};

// Packs one row. cols: a multiple of group. importance: [cols]. codes and scales: row_bytes(cols) and
// scale_bytes(cols) bytes. False when a number of w is not finite, or too large for the
// scale's type; what is written then means nothing.
bool pack_row(const PackFormat& format, const float* w, int64_t cols, const float* importance, uint8_t* codes,
              uint8_t* scales, PackError& error);

}  // namespace moebius
