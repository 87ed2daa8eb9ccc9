#include "kernels/cpu/grad_products.h"

#include <algorithm>

#include "kernels/cpu/products.h"
#include "kernels/cpu/workers.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

constexpr int64_t kPanelRows = 256;  // of w, held in float32 at a time
constexpr int64_t kPiece = 16;       // rows of a panel that a thread dequantises at a time
constexpr int64_t kTokens = 256;     // of a task
constexpr int64_t kColumns = 256;
constexpr int64_t kOuterRows = 128;
constexpr int64_t kManyBlocks = 8;     // of a sum over tokens: they need no split of the tokens
constexpr int64_t kPartTokens = 1024;  // else these are summed apart

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// dx += dy w for rows [first, first + count) of w, which stand at panel, [count, cols].
void add_panel(const Tensor& dy, int64_t first, int64_t count, const float* panel, const Tensor& dx,
               HostContext& context) {
  const int64_t n = dx.shape[0], cols = dx.shape[1];
  const int64_t token_blocks = ceil_div(n, kTokens), column_blocks = ceil_div(cols, kColumns);
  parallel_for(context.pool, token_blocks * column_blocks, 1, [&](int64_t task, int64_t) {
    const int64_t token = task / column_blocks * kTokens, column = task % column_blocks * kColumns;
    gemm_f32_xw(std::min(kTokens, n - token), std::min(kColumns, cols - column), count,
                dy.f32() + token * dy.stride[0] + first, dy.stride[0], panel + column, cols,
                dx.f32() + token * dx.stride[0] + column, dx.stride[0], true);
  });
}

// A block of rows and columns of a sum over tokens [begin, end): out (+)= left^T right.
void outer_block(const Tensor& left, const Tensor& right, int64_t block, int64_t begin, int64_t end,
                 float* out, int64_t ld, bool accumulate) {
  const int64_t rows = left.shape[1], cols = right.shape[1], column_blocks = ceil_div(cols, kColumns);
  const int64_t row = block / column_blocks * kOuterRows, column = block % column_blocks * kColumns;
  gemm_f32_xtw(std::min(kOuterRows, rows - row), std::min(kColumns, cols - column), end - begin,
               left.f32() + begin * left.stride[0] + row, left.stride[0],
               right.f32() + begin * right.stride[0] + column, right.stride[0], out + row * ld + column, ld,
               accumulate);
}

}  // namespace

void add_product(const Tensor& dy, const Matrix& w, const Tensor& dx, HostContext& context) {
  if (dx.shape[0] == 0 || w.rows == 0 || w.cols == 0) return;
  if (float32_in_place(w)) return add_panel(dy, 0, w.rows, static_cast<const float*>(w.data), dx, context);
  const Scratch::Frame frame(context.scratch);
  float* panel = context.scratch.take<float>(std::min(kPanelRows, w.rows) * w.cols);
  for (int64_t first = 0; first < w.rows; first += kPanelRows) {
    const int64_t count = std::min(kPanelRows, w.rows - first);
    parallel_for(context.pool, count, kPiece, [&](int64_t begin, int64_t end) {
      context.kernels(w.format).dequantize_rows(w, first + begin, first + end, panel + begin * w.cols,
                                                w.cols);
    });
    add_panel(dy, first, count, panel, dx, context);
  }
}

void add_outer(const Tensor& left, const Tensor& right, const Tensor& out, HostContext& context) {
  const int64_t n = left.shape[0], rows = out.shape[0], cols = out.shape[1];
  if (n == 0 || rows == 0 || cols == 0) return;
  const int64_t blocks = ceil_div(rows, kOuterRows) * ceil_div(cols, kColumns);
  const int64_t parts = blocks < kManyBlocks ? ceil_div(n, kPartTokens) : 1;
  if (parts == 1) {
    return parallel_for(context.pool, blocks, 1, [&](int64_t block, int64_t) {
      outer_block(left, right, block, 0, n, out.f32(), out.stride[0], true);
    });
  }
  const Scratch::Frame frame(context.scratch);
  float* sums = context.scratch.take<float>(parts * rows * cols);
  parallel_for(context.pool, parts * blocks, 1, [&](int64_t task, int64_t) {
    const int64_t part = task / blocks, begin = part * kPartTokens;
    outer_block(left, right, task % blocks, begin, std::min(n, begin + kPartTokens),
                sums + part * rows * cols, cols, false);
  });
  parallel_for(context.pool, rows, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = out.f32() + r * out.stride[0];
      for (int64_t part = 0; part < parts; ++part) {
        const float* from = sums + (part * rows + r) * cols;
        for (int64_t c = 0; c < cols; ++c) to[c] += from[c];
      }
    }
  });
}

}  // namespace moebius
