// Products of backward passes, float32 by gemm.h, threads inside. The split into tasks and the order of sums
// follow from the sizes alone.
#pragma once

#include "kernels/cpu/host_grad.h"

namespace moebius {

// dx [n, cols] += dy [n, rows] w, w of any format, read in place; its adapter is left out.
void add_product(const Tensor& dy, const Matrix& w, const Tensor& dx, HostContext& context);

// out [rows, cols] += left [n, rows]^T right [n, cols]
void add_outer(const Tensor& left, const Tensor& right, const Tensor& out, HostContext& context);

}  // namespace moebius
