// A float32 matrix product on the host for callers above the operations (optimizers): oneDNN's where the
// build has it, else plain loops.
#pragma once

#include <cstdint>

namespace moebius {

// y[i, r] = (accumulate ? y[i, r] : 0) + sum over c of x[i, c] * w[r, c]; i < n, r < rows, c < cols.
// Row-major with ld numbers from row to row; y aliases neither x nor w. Runs on the calling thread alone, and
// the bits of y depend on nothing but the arguments: parallelism is the caller's.
void gemm_f32(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w, int64_t ldw,
              float* y, int64_t ldy, bool accumulate);
// The plain loops, for builds without oneDNN and as its slow twin.
void gemm_f32_plain(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w,
                    int64_t ldw, float* y, int64_t ldy, bool accumulate);

}  // namespace moebius
