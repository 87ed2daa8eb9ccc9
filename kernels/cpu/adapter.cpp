#include "kernels/cpu/adapter.h"

namespace moebius {
namespace {

constexpr int64_t kGrain = 16;  // tokens

// [n, rank] contiguous
void scale_rows(float factor, float* mid, int64_t numbers) {
  for (int64_t i = 0; i < numbers; ++i) mid[i] *= factor;
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
  Tile part;
  context.kernels(Format::kF32)
      .dot_rows(adapter.b, begin, end, tokens_from(adapter.mid, first), nullptr, count, part.values,
                end - begin);
  for (int64_t i = 0; i < count * (end - begin); ++i) tile[i] += part.values[i];
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
