#include "kernels/cpu/chunk_matrix.h"

#include "kernels/cpu/products.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

// out += left [n, rows]^T right [n, cols]
void add_outer(int64_t n, const float* left, int64_t rows, const float* right, int64_t cols,
               const Tensor& out) {
  if (!out.empty()) gemm_f32_xtw(rows, cols, n, left, rows, right, cols, out.f32(), out.stride[0], true);
}

}  // namespace

int64_t numbers_copied(const Matrix& w) { return float32_in_place(w) ? 0 : w.rows * w.cols; }
int64_t adapter_rank(const Matrix& w) { return w.lora ? w.lora->a.shape[0] : 0; }

ChunkMatrix::ChunkMatrix(const Matrix& w, const MatrixSums& sums, const Memory& memory,
                         const HostContext& context)
    : w_(w), sums_(sums), memory_(memory), values_(static_cast<const float*>(w.data)) {
  if (float32_in_place(w)) return;
  context.kernels(w.format).dequantize_rows(w, 0, w.rows, memory.copy, w.cols);
  values_ = memory.copy;
}

void ChunkMatrix::product(int64_t n, const float* x, float* y) const {
  gemm_f32(n, w_.rows, w_.cols, x, w_.cols, values_, w_.cols, y, w_.rows, false);
  if (w_.adapted() || !sums_.db.empty()) make_mid(n, x);
  if (w_.adapted())
    gemm_f32(n, w_.rows, rank(), memory_.mid, rank(), w_.lora->b.f32(), rank(), y, w_.rows, true);
}

void ChunkMatrix::pass_back(int64_t n, const float* dy, float* dx, bool accumulate) const {
  if (dx) gemm_f32_xw(n, w_.cols, w_.rows, dy, w_.rows, values_, w_.cols, dx, w_.cols, accumulate);
  const bool adapter_passes = dx && w_.adapted();
  if (!adapter_passes && sums_.da.empty()) return;
  gemm_f32_xw(n, rank(), w_.rows, dy, w_.rows, w_.lora->b.f32(), rank(), memory_.dmid, rank(), false);
  scale(memory_.dmid, n);
  if (adapter_passes)
    gemm_f32_xw(n, w_.cols, rank(), memory_.dmid, rank(), w_.lora->a.f32(), w_.cols, dx, w_.cols, true);
}

void ChunkMatrix::meet(int64_t n, const float* x) const {
  if (!sums_.db.empty()) make_mid(n, x);
}

void ChunkMatrix::add_sums(int64_t n, const float* x, const float* dy) const {
  add_outer(n, dy, w_.rows, x, w_.cols, sums_.dw);
  if (!w_.lora) return;
  add_outer(n, memory_.dmid, rank(), x, w_.cols, sums_.da);
  add_outer(n, dy, w_.rows, memory_.mid, rank(), sums_.db);
}

void ChunkMatrix::make_mid(int64_t n, const float* x) const {
  gemm_f32(n, rank(), w_.cols, x, w_.cols, w_.lora->a.f32(), w_.cols, memory_.mid, rank(), false);
  scale(memory_.mid, n);
}

void ChunkMatrix::scale(float* mid, int64_t n) const {
  for (int64_t i = 0; i < n * rank(); ++i) mid[i] *= w_.lora->scale;
}

}  // namespace moebius
