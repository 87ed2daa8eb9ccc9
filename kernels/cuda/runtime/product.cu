#include "kernels/cuda/runtime/product.h"

#include <algorithm>
#include <cstdint>

namespace moebius::cuda {
namespace {

constexpr size_t kMostPlans = 4096;  // a step has a few dozen; prompts of any length add some each

cudaDataType_t type_of(DType type) {
  return type == DType::kF32 ? CUDA_R_32F : type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
}

uint32_t alignment(const void* at) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(at);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address & (~address + 1)));
}

}  // namespace

Products::~Products() {
  for (auto& [key, plan] : plans_) destroy(plan);
  if (handle_) cublasLtDestroy(handle_);
  cudaFree(workspace_);
}

bool Products::ok(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS)
    failure_.note(
        Status(Code::kIo, fmt::format("cuBLAS failed: {}; start again", cublasLtGetStatusString(status))));
  return status == CUBLAS_STATUS_SUCCESS;
}

Status Products::create() {
  failure_.ok(cudaMalloc(&workspace_, kWorkspaceBytes), "taking cuBLAS' memory");
  ok(cublasLtCreate(&handle_));
  return failure_.first();
}

void Products::destroy(Plan& plan) {
  if (plan.product) cublasLtMatmulDescDestroy(plan.product);
  for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.y})
    if (layout) cublasLtMatrixLayoutDestroy(layout);
  plan = Plan();
}

// cuBLAS' matrices have their columns side by side: w is [cols, rows] there, and transposed; x [cols, n]; y
// [rows, n].
bool Products::choose(const Key& key, Plan& plan) {
  const auto& [type, n, rows, cols, ldx, ldw, ldy, align_x, align_w, align_y, accumulate] = key;
  const cudaDataType_t in = type_of(type);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
  if (!ok(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) ||
      !ok(cublasLtMatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                         sizeof transposed)) ||
      !ok(cublasLtMatrixLayoutCreate(&plan.w, in, size(cols), size(rows), ldw)) ||
      !ok(cublasLtMatrixLayoutCreate(&plan.x, in, size(cols), size(n), ldx)) ||
      !ok(cublasLtMatrixLayoutCreate(&plan.y, CUDA_R_32F, size(rows), size(n), ldy)))
    return false;
  cublasLtMatmulPreference_t wish = nullptr;
  if (!ok(cublasLtMatmulPreferenceCreate(&wish))) return false;
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    return ok(cublasLtMatmulPreferenceSetAttribute(wish, what, &value, sizeof value));
  };
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const bool chosen = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes) &&
                      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_w) &&
                      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_x) &&
                      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_y) &&
                      set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_y) &&
                      ok(cublasLtMatmulAlgoGetHeuristic(handle_, plan.product, plan.w, plan.x, plan.y, plan.y,
                                                        wish, 1, &found, &count)) &&
                      (count > 0 || ok(CUBLAS_STATUS_NOT_SUPPORTED));
  cublasLtMatmulPreferenceDestroy(wish);
  plan.kernel = found.algo, plan.workspace = found.workspaceSize;
  return chosen;
}

Products::Plan* Products::plan(const Key& key) {
  const auto found = plans_.find(key);
  if (found != plans_.end()) return &found->second;
  if (plans_.size() >= kMostPlans) {
    for (auto& [old_key, old] : plans_) destroy(old);
    plans_.clear();
  }
  Plan plan;
  if (choose(key, plan)) return &(plans_[key] = plan);
  destroy(plan);
  return nullptr;
}

void Products::run(DType type, int64_t n, int64_t rows, int64_t cols, const void* x, int64_t ldx,
                   const void* w, int64_t ldw, float* y, int64_t ldy, bool accumulate, cudaStream_t stream) {
  const Key key{type, n, rows, cols, ldx, ldw, ldy, alignment(x), alignment(w), alignment(y), accumulate};
  const Plan* chosen = plan(key);
  if (!chosen) return;
  const float one = 1, old = accumulate ? 1 : 0;
  ok(cublasLtMatmul(handle_, chosen->product, &one, w, chosen->w, x, chosen->x, &old, y, chosen->y, y,
                    chosen->y, &chosen->kernel, workspace_, chosen->workspace, stream));
}

}  // namespace moebius::cuda
