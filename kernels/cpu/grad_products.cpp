#include "kernels/cpu/grad_products.h"

#include <algorithm>

#include "kernels/cpu/panels.h"
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

constexpr int64_t kFewTokens = 32;  // for fewer a thread does not make all of w float32 for itself
constexpr int64_t kManyTokens = 256;
constexpr int64_t kRowTiles = 2;  // of w that are float32 at a time, so that they stay in a core's cache

// Memory of one worker that passes tokens back by panels.
struct PanelWork {
  PanelWork(int64_t tokens, int64_t cols, Scratch& scratch)
      : dy(scratch.take<float>(panel_floats(tokens, kRowTiles * kPanelTile))),
        w(scratch.take<float>(panel_floats(kRowTiles * kPanelTile, cols))),
        dx(scratch.take<float>(panel_floats(tokens, cols))),
        row(scratch.take<float>(cols)) {}
  float *dy, *w, *dx, *row;
};

// dx += dy w for tokens [begin, end), on this thread.
void add_tokens(const Tensor& dy, const Matrix& w, const Tensor& dx, int64_t begin, int64_t end,
                const PanelWork& work, const HostContext& context) {
  constexpr int64_t kRows = kRowTiles * kPanelTile;
  const int64_t n = end - begin;
  const Panel sums = panel_at(work.dx, n, w.cols);
  for (int64_t row = 0; row < w.rows; row += kRows) {
    const int64_t rows = std::min(kRows, w.rows - row);
    const Panel factors = panel_at(work.dy, n, rows), weights = panel_at(work.w, rows, w.cols);
    for (int64_t i = 0; i < n; ++i)
      fill_panel_row_avx512(dy.f32() + (begin + i) * dy.stride[0] + row, rows, factors, i);
    fill_panel(w, row, row + rows, weights, work.row, context);
    const PanelTerm term{factors, weights};
    panel_sums_avx512({&term, 1}, sums, row > 0);
  }
  for (int64_t i = 0; i < n; ++i) add_panel_row(sums, i, w.cols, dx.f32() + (begin + i) * dx.stride[0]);
}

// Threads share the tokens, and each goes through all of w.
void add_by_panels(const Tensor& dy, const Matrix& w, const Tensor& dx, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = dx.shape[0], threads = context.pool.threads();
  const int64_t rounds = ceil_div(n, kManyTokens * threads);
  const int64_t tokens = std::max(kFewTokens, ceil_div(n, rounds * threads)), units = ceil_div(n, tokens);
  std::vector<PanelWork> work;
  for (int i = 0; i < worker_count(context, units); ++i) work.emplace_back(tokens, w.cols, context.scratch);
  for_each_unit(context, units, [&](int64_t i, int64_t worker) {
    add_tokens(dy, w, dx, i * tokens, std::min(n, (i + 1) * tokens), work[static_cast<size_t>(worker)],
               context);
  });
}

}  // namespace

void add_product(const Tensor& dy, const Matrix& w, const Tensor& dx, HostContext& context) {
  if (dx.shape[0] == 0 || w.rows == 0 || w.cols == 0) return;
  if (float32_in_place(w)) return add_panel(dy, 0, w.rows, static_cast<const float*>(w.data), dx, context);
  if (context.isa >= Isa::kAvx512 && dx.shape[0] >= kFewTokens) return add_by_panels(dy, w, dx, context);
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
