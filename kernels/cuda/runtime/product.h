// Products of matrices by cuBLASLt: Context::gemm.
#pragma once

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "kernels/cuda/runtime/failure.h"
#include "kernels/tensor.h"

namespace moebius::cuda {

class Products {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  explicit Products(Failure& failure) : failure_(failure) {}
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  Status create();
  // As Context::gemm, on a stream.
  void run(DType type, int64_t n, int64_t rows, int64_t cols, const void* x, int64_t ldx, const void* w,
           int64_t ldw, float* y, int64_t ldy, bool accumulate, cudaStream_t stream);

 private:
  // Everything that the choice of a kernel depends on; alignments in bytes, up to 256.
  using Key = std::tuple<DType, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, uint32_t, uint32_t,
                         uint32_t, bool>;
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t kernel{};
    size_t workspace = 0;
  };
  bool ok(cublasStatus_t status);
  Plan* plan(const Key& key);
  bool choose(const Key& key, Plan& plan);
  static void destroy(Plan& plan);

  Failure& failure_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Plan> plans_;
};

}  // namespace moebius::cuda
