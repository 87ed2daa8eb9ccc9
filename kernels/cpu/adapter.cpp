#include "kernels/cpu/adapter.h"

#include <algorithm>

#include "kernels/cpu/vector_ops.h"

namespace moebius {
namespace {

constexpr int64_t kGrain = 16;  // tokens

// [n, rank] contiguous
void scale_rows(float factor, float* mid, int64_t numbers) {
  for (int64_t i = 0; i < numbers; ++i) mid[i] *= factor;
}

void add_dots(const Adapter& adapter, int64_t begin, int64_t end, int64_t first, int64_t count, float* tile,
              const HostContext& context) {
  Tile part;
  context.kernels(Format::kF32)
      .dot_rows(adapter.b, begin, end, tokens_from(adapter.mid, first), nullptr, count, part.values,
                end - begin);
  for (int64_t i = 0; i < count * (end - begin); ++i) tile[i] += part.values[i];
}

// A row of b is too short for a dot product to fill vectors: rows are turned, some at a time, and go by as
// columns. Each number of the tile is summed over the rank, ascending.
void add_turned(const Adapter& adapter, int64_t begin, int64_t end, const float* mid, int64_t count,
                float* tile) {
  constexpr int64_t kRanks = 16, kRows = 64;
  alignas(64) float turned[kRanks * kRows];
  const int64_t rank = adapter.b.cols;
  const float* b = static_cast<const float*>(adapter.b.data);
  for (int64_t row = begin; row < end; row += kRows) {
    const int64_t rows = std::min(kRows, end - row);
    for (int64_t k = 0; k < rank; k += kRanks) {
      const int64_t ranks = std::min(kRanks, rank - k);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < ranks; ++j) turned[j * kRows + r] = b[(row + r) * rank + k + j];
      for (int64_t i = 0; i < count; ++i)
        add_scaled_rows_avx2(mid + i * rank + k, ranks, turned, kRows, rows,
                             tile + i * (end - begin) + row - begin);
    }
  }
}

}  // namespace

Matrix matrix_over(const Tensor& t) {
  Matrix m;
  m.rows = t.shape[0], m.cols = t.shape[1], m.data = t.data;
  return m;
}

Adapter take_adapter(const Matrix& w, int64_t n, Scratch& scratch) {
  Adapter adapter;
  if (!w.adapted()) return adapter;
  adapter.b = matrix_over(w.lora->b);
  adapter.mid.ld = adapter.mid.cols = adapter.b.cols;
  adapter.mid.x = scratch.take<float>(n * adapter.b.cols);
  return adapter;
}

void fill_adapter(const Matrix& w, const Adapter& adapter, const Activations& x, const int32_t* tokens,
                  int64_t begin, int64_t end, const HostContext& context) {
  if (adapter.empty()) return;
  const int64_t rank = adapter.mid.cols;
  Activations exact = x;
  exact.q = nullptr;
  if (!tokens) exact.x += begin * exact.ld;
  float* mid = const_cast<float*>(adapter.mid.x) + begin * rank;
  context.kernels(Format::kF32)
      .dot_rows(matrix_over(w.lora->a), 0, rank, exact, tokens ? tokens + begin : nullptr, end - begin, mid,
                rank);
  scale_rows(w.lora->scale, mid, (end - begin) * rank);
}

Adapter prepare_adapter(const Matrix& w, const Activations& x, int64_t n, HostContext& context) {
  const Adapter adapter = take_adapter(w, n, context.scratch);
  if (adapter.empty()) return adapter;
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    fill_adapter(w, adapter, x, nullptr, begin, end, context);
  });
  return adapter;
}

void add_adapter(const Adapter& adapter, int64_t begin, int64_t end, int64_t first, int64_t count,
                 float* tile, const HostContext& context) {
  if (adapter.empty()) return;
  if (context.avx2())
    add_turned(adapter, begin, end, adapter.mid.x + first * adapter.mid.ld, count, tile);
  else
    add_dots(adapter, begin, end, first, count, tile, context);
}

void multiply_panels_adapted(const Matrix& w, const float* x, int64_t ldx, int64_t n, float* y, int64_t ldy,
                             bool accumulate, HostContext& context) {
  multiply_panels(w, x, ldx, n, y, ldy, accumulate, context);
  if (!w.adapted()) return;
  const Scratch::Frame frame(context.scratch);
  const int64_t rank = w.lora->a.shape[0];
  float* mid = context.scratch.take<float>(n * rank);
  multiply_panels(matrix_over(w.lora->a), x, ldx, n, mid, rank, false, context);
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    scale_rows(w.lora->scale, mid + begin * rank, (end - begin) * rank);
  });
  multiply_panels(matrix_over(w.lora->b), mid, rank, n, y, ldy, true, context);
}

}  // namespace moebius
