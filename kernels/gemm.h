// Float32 matrix products on the host, for backward operations and for callers above the operations
// (optimizers): oneDNN's where the build has it, else plain loops.
//
// Matrices are row-major with ld numbers from row to row; y aliases neither x nor w. A product runs on the
// calling thread alone, and the bits of y depend on nothing but the arguments: parallelism is the caller's.
// accumulate adds to what y holds, otherwise y is set.
#pragma once

#include <cstdint>

namespace moebius {

// y [n, rows] (+)= x w^T: x [n, cols], w [rows, cols].
void gemm_f32(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w, int64_t ldw,
              float* y, int64_t ldy, bool accumulate);
// y [n, cols] (+)= x w: x [n, rows], w [rows, cols].
void gemm_f32_xw(int64_t n, int64_t cols, int64_t rows, const float* x, int64_t ldx, const float* w,
                 int64_t ldw, float* y, int64_t ldy, bool accumulate);
// y [rows, cols] (+)= x^T w: x [n, rows], w [n, cols].
void gemm_f32_xtw(int64_t rows, int64_t cols, int64_t n, const float* x, int64_t ldx, const float* w,
                  int64_t ldw, float* y, int64_t ldy, bool accumulate);

// The plain loops, for builds without oneDNN and as slow twins.
void gemm_f32_plain(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w,
                    int64_t ldw, float* y, int64_t ldy, bool accumulate);
void gemm_f32_xw_plain(int64_t n, int64_t cols, int64_t rows, const float* x, int64_t ldx, const float* w,
                       int64_t ldw, float* y, int64_t ldy, bool accumulate);
void gemm_f32_xtw_plain(int64_t rows, int64_t cols, int64_t n, const float* x, int64_t ldx, const float* w,
                        int64_t ldw, float* y, int64_t ldy, bool accumulate);

}  // namespace moebius
