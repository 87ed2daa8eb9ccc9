// Matrices of every format as float32: for products that cuBLAS does, and for embeddings.
#pragma once

#include "kernels/cuda/context.h"

namespace moebius::cuda {

// out [rows, cols], rows ld apart: the numbers of FormatKernels::dequantize_rows. Null pointers are left
// alone.
void dequantize(Context& context, const Matrix& w, float* out, int64_t ld);
// Row i of out is row ids[i * ids_stride] of w, i < n.
void dequantize_rows(Context& context, const Matrix& w, const int32_t* ids, int64_t ids_stride, int64_t n,
                     float* out, int64_t ld);

}  // namespace moebius::cuda
