#include "kernels/gemm.h"

#include <algorithm>

#include "kernels/cpu/onednn.h"

namespace moebius {
namespace {

constexpr int kLanes = 8;          // partial sums of a dot product: compilers turn them into one register
constexpr int64_t kRowBlock = 32;  // rows of w that stay in cache while all of x passes

float dot(const float* x, const float* w, int64_t n) {
  float lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += x[c + l] * w[c + l];
  }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  for (; c < n; ++c) sum += x[c] * w[c];
  return sum;
}

}  // namespace

void gemm_f32_plain(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w,
                    int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  for (int64_t begin = 0; begin < rows; begin += kRowBlock) {
    const int64_t end = std::min(rows, begin + kRowBlock);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = begin; r < end; ++r) {
        float& out = y[i * ldy + r];
        out = (accumulate ? out : 0.f) + dot(x + i * ldx, w + r * ldw, cols);
      }
    }
  }
}

void gemm_f32(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w, int64_t ldw,
              float* y, int64_t ldy, bool accumulate) {
  if (n == 0 || rows == 0) return;
  if (onednn_missing() || cols == 0) return gemm_f32_plain(n, rows, cols, x, ldx, w, ldw, y, ldy, accumulate);
  onednn_gemm(n, rows, cols, x, ldx, w, ldw, y, ldy, accumulate);
}

}  // namespace moebius
