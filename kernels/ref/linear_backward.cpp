#include <algorithm>

#include "kernels/grad_ops.h"
#include "kernels/ref/adapted.h"

namespace moebius::ref {
namespace {

// out [rows, cols] += factor * left^T right, of n rows each; any may be strided.
void add_outer(double factor, const Tensor& left, const Tensor& right, const Tensor& out) {
  for (int64_t r = 0; r < out.shape[0]; ++r) {
    for (int64_t c = 0; c < out.shape[1]; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < left.shape[0]; ++i)
        sum += static_cast<double>(left.f32()[i * left.stride[0] + r]) * right.f32()[i * right.stride[0] + c];
      float& to = out.f32()[r * out.stride[0] + c];
      to = static_cast<float>(to + factor * sum);
    }
  }
}

void adapter_backward(const LinearBackwardArgs& args) {
  const Lora& lora = *args.w.lora;
  const int64_t n = args.dy.shape[0], rows = args.dy.shape[1], rank = lora.a.shape[0];
  std::vector<float> dmid(static_cast<size_t>(n * rank)), mid(dmid);  // dy b, x a^T
  for (int64_t i = 0; i < n; ++i) {
    const float* dy = args.dy.f32() + i * args.dy.stride[0];
    for (int64_t k = 0; k < rank; ++k) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += static_cast<double>(dy[r]) * lora.b.f32()[r * rank + k];
      dmid[static_cast<size_t>(i * rank + k)] = static_cast<float>(sum);
    }
  }
  if (!args.dx.empty() && !lora.merged) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < args.w.cols; ++c) {
        double sum = 0;
        for (int64_t k = 0; k < rank; ++k)
          sum += static_cast<double>(dmid[static_cast<size_t>(i * rank + k)]) *
                 lora.a.f32()[k * args.w.cols + c];
        float& dx = args.dx.f32()[i * args.dx.stride[0] + c];
        dx = static_cast<float>(dx + lora.scale * sum);
      }
    }
  }
  if (!lora.da.empty()) add_outer(lora.scale, f32_tensor(dmid.data(), {n, rank}), args.x, lora.da);
  if (lora.db.empty()) return;
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<float> one = inner(lora, args.x.f32() + i * args.x.stride[0]);
    std::copy(one.begin(), one.end(), mid.begin() + i * rank);
  }
  add_outer(lora.scale, args.dy, f32_tensor(mid.data(), {n, rank}), lora.db);
}

}  // namespace

void linear_backward(const LinearBackwardArgs& args) {
  const int64_t n = args.dy.shape[0], rows = args.dy.shape[1];
  for (int64_t i = 0; i < n && !args.dx.empty(); ++i)
    reference_kernels(args.w.format)
        .axpy_rows(args.w, 0, rows, args.dy.f32() + i * args.dy.stride[0],
                   args.dx.f32() + i * args.dx.stride[0]);
  if (args.w.lora) adapter_backward(args);
  if (!args.dw.empty()) add_outer(1, args.dy, args.x, args.dw);
  for (int64_t r = 0; r < rows && !args.dbias.empty(); ++r) {
    double sum = args.dbias.f32()[r];
    for (int64_t i = 0; i < n; ++i) sum += args.dy.f32()[i * args.dy.stride[0] + r];
    args.dbias.f32()[r] = static_cast<float>(sum);
  }
}

}  // namespace moebius::ref
