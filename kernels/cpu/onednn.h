// The one door to oneDNN: a float32 matrix product. Builds without it have the same functions and say so.
#pragma once

#include <cstdint>

namespace moebius {

// Null when onednn_gemm may be called, else why not.
const char* onednn_missing();

// y[i, r] = (accumulate ? y[i, r] : 0) + sum over c of x[i, c] * w[r, c]; i < n, r < rows, c < cols. Runs on
// the calling thread alone, so that sums do not depend on a number of threads; parallelism is the caller's.
void onednn_gemm(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w,
                 int64_t ldw, float* y, int64_t ldy, bool accumulate);

}  // namespace moebius
