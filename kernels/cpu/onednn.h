// The one door to oneDNN: a float32 matrix product. Builds without it have the same functions and say so.
#pragma once

#include <cstdint>

namespace moebius {

// Null when onednn_gemm may be called, else why not.
const char* onednn_missing();

// y [m, n] (+)= x w over an inner dimension of k, each of x and w given transposed or not. Runs on the
// calling thread alone, so that sums do not depend on a number of threads; parallelism is the caller's.
void onednn_gemm(bool x_transposed, bool w_transposed, int64_t m, int64_t n, int64_t k, const float* x,
                 int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, bool accumulate);

}  // namespace moebius
