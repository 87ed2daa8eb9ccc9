// The operations of a CUDA device, real or emulated: each call is checked and handed to its launcher.
#pragma once

#include <string>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace moebius::cuda {

// visit()s arguments and aborts when a tensor lies where kernels cannot reach it, or a cache is of a type
// that they would take for another.
struct OnDevice {
  const char* op;

  void need(bool reachable) const {
    MOEBIUS_CHECK(reachable, fmt::format("{}: an argument is not in the device's memory", op));
  }
  void operator()(const Tensor& t) const { need(t.empty() || t.space != Space::kHost); }
  void operator()(const Matrix& m) const {
    need(m.empty() || m.space == Space::kDevice);
    if (!m.lora) return;
    for (const Tensor* t : {&m.lora->a, &m.lora->b, &m.lora->da, &m.lora->db}) (*this)(*t);
  }
  void operator()(const CacheView& cache) const {
    need(cache.space == Space::kDevice);
    MOEBIUS_CHECK(
        cache.dtype == DType::kF32 || cache.dtype == DType::kBF16,
        fmt::format("{}: a cache of {}; on a CUDA device it is F32 or BF16", op, dtype_name(cache.dtype)));
  }
  void operator()(const ExpertWeights* experts, int64_t count) const {
    for (int64_t e = 0; e < count; ++e)
      (*this)(experts[e].gate), (*this)(experts[e].up), (*this)(experts[e].down);
  }
  void operator()(const ExpertGradients* gradients, int64_t count) const {
    for (int64_t e = 0; e < count; ++e)
      (*this)(gradients[e].gate), (*this)(gradients[e].up), (*this)(gradients[e].down);
  }
  void operator()(std::span<const int64_t>) const {}
};

class CudaOperations : public Backend {
 public:
#define X(op, Args)                    \
  void op(const Args& args) override { \
    check(args);                       \
    Args(args).visit(OnDevice{#op});   \
    if (!begin()) return;              \
    cuda::op(context(), args);         \
    end(#op);                          \
  }
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X

 protected:
  virtual Context& context() = 0;
  // Around each launcher. At begin() the scratch of the last one is free again; false: the device has failed.
  virtual bool begin() = 0;
  virtual void end(const char* op) = 0;
};

}  // namespace moebius::cuda
