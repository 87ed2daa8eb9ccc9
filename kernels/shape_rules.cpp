#include "kernels/shape_rules.h"

namespace moebius {
namespace {

bool has_dims(const Tensor& t, std::initializer_list<int64_t> dims) {
  if (t.ndim != static_cast<int>(dims.size())) return false;
  int i = 0;
  for (const int64_t dim : dims) {
    if (dim >= 0 && t.shape[i] != dim) return false;
    ++i;
  }
  return true;
}

}  // namespace

bool is_f32(const Tensor& t, std::initializer_list<int64_t> dims) {
  if (t.dtype != DType::kF32 || !has_dims(t, dims)) return false;
  if (t.numel() == 0) return true;
  return t.data && (t.ndim == 0 || t.stride[t.ndim - 1] == 1 || t.shape[t.ndim - 1] == 1);
}

bool empty_or_f32(const Tensor& t, std::initializer_list<int64_t> dims) {
  return t.empty() || is_f32(t, dims);
}

bool is_ids(const Tensor& t, int ndim) {
  if (t.dtype != DType::kI32 || t.ndim != ndim) return false;
  return t.numel() == 0 || (t.data && (t.stride[ndim - 1] == 1 || t.shape[ndim - 1] == 1 || ndim == 1));
}

bool ids_within(const Tensor& ids, int32_t lowest, int64_t limit) {
  if (ids.space == Space::kDevice) return true;
  const int64_t columns = ids.ndim == 2 ? ids.shape[1] : 1;
  for (int64_t i = 0; i < ids.shape[0]; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int32_t id = ids.i32()[i * ids.stride[0] + j];
      if (id < lowest || id >= limit) return false;
    }
  }
  return true;
}

bool fits(const Lora& lora, int64_t rows, int64_t cols) {
  const int64_t rank = lora.a.shape[0];
  if (rank <= 0 || !is_f32(lora.a, {rank, cols}) || !is_f32(lora.b, {rows, rank})) return false;
  return lora.a.contiguous() && lora.b.contiguous() && empty_or_f32(lora.da, {rank, cols}) &&
         empty_or_f32(lora.db, {rows, rank});
}

bool is_adaptable(const Matrix& w, int64_t rows, int64_t cols) {
  if (w.rows < 0 || w.cols < 0 || (rows >= 0 && w.rows != rows) || (cols >= 0 && w.cols != cols))
    return false;
  if (w.lora && !fits(*w.lora, w.rows, w.cols)) return false;
  if (w.rows == 0 || w.cols == 0) return true;
  if (!w.data) return false;
  if (w.format != Format::kFp8Block && !is_integer(w.format)) return !w.scales;
  if (!w.scales || w.group <= 0) return false;
  if (w.scale_dtype != DType::kF32 && w.scale_dtype != DType::kBF16 && w.scale_dtype != DType::kF16)
    return false;
  if (w.format == Format::kFp8Block) return w.group == kFp8Block;
  return w.group % kActivationGroup == 0 || w.group >= w.cols;
}

bool is_matrix(const Matrix& w, int64_t rows, int64_t cols) {
  return is_adaptable(w, rows, cols) && !w.adapted();
}

}  // namespace moebius
