#include "kernels/gemm.h"

#include <algorithm>

#include "kernels/cpu/onednn.h"

namespace moebius {
namespace {

constexpr int kLanes = 8;          // partial sums of a dot product: compilers turn them into one register
constexpr int64_t kRowBlock = 32;  // rows that stay in cache while all of the other matrix passes

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

// y [n, cols] (+)= x w, where x[i, r] stands at i * step + r * ldx.
void add_rows(int64_t n, int64_t cols, int64_t rows, const float* x, int64_t step, int64_t ldx,
              const float* w, int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  for (int64_t i = 0; i < n && !accumulate; ++i) std::fill_n(y + i * ldy, cols, 0.0f);
  for (int64_t begin = 0; begin < rows; begin += kRowBlock) {
    const int64_t end = std::min(rows, begin + kRowBlock);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = begin; r < end; ++r) {
        const float factor = x[i * step + r * ldx];
        for (int64_t c = 0; c < cols; ++c) y[i * ldy + c] += factor * w[r * ldw + c];
      }
    }
  }
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

void gemm_f32_xw_plain(int64_t n, int64_t cols, int64_t rows, const float* x, int64_t ldx, const float* w,
                       int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  add_rows(n, cols, rows, x, ldx, 1, w, ldw, y, ldy, accumulate);
}

void gemm_f32_xtw_plain(int64_t rows, int64_t cols, int64_t n, const float* x, int64_t ldx, const float* w,
                        int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  add_rows(rows, cols, n, x, 1, ldx, w, ldw, y, ldy, accumulate);
}

void gemm_f32(int64_t n, int64_t rows, int64_t cols, const float* x, int64_t ldx, const float* w, int64_t ldw,
              float* y, int64_t ldy, bool accumulate) {
  if (n == 0 || rows == 0) return;
  if (onednn_missing() || cols == 0) return gemm_f32_plain(n, rows, cols, x, ldx, w, ldw, y, ldy, accumulate);
  onednn_gemm(false, true, n, rows, cols, x, ldx, w, ldw, y, ldy, accumulate);
}

void gemm_f32_xw(int64_t n, int64_t cols, int64_t rows, const float* x, int64_t ldx, const float* w,
                 int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  if (n == 0 || cols == 0) return;
  if (onednn_missing() || rows == 0)
    return gemm_f32_xw_plain(n, cols, rows, x, ldx, w, ldw, y, ldy, accumulate);
  onednn_gemm(false, false, n, cols, rows, x, ldx, w, ldw, y, ldy, accumulate);
}

void gemm_f32_xtw(int64_t rows, int64_t cols, int64_t n, const float* x, int64_t ldx, const float* w,
                  int64_t ldw, float* y, int64_t ldy, bool accumulate) {
  if (rows == 0 || cols == 0) return;
  if (onednn_missing() || n == 0)
    return gemm_f32_xtw_plain(rows, cols, n, x, ldx, w, ldw, y, ldy, accumulate);
  onednn_gemm(true, false, rows, cols, n, x, ldx, w, ldw, y, ldy, accumulate);
}

}  // namespace moebius
