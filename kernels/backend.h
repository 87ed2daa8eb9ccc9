// Backend: a device as the engine sees it: memory, limits and the operations of ops.h and grad_ops.h.
//
// The host backend runs the operations at once on the calling thread's team. One thread at a time may call a
// backend. Asking for a device that this build or machine lacks gives a Status, never a crash.
#pragma once

#include <memory>
#include <string>

#include "kernels/grad_ops.h"

namespace moebius {

enum class CpuGemm : uint8_t { kAuto, kOneDnn, kOwn };  // who multiplies large batches on the CPU

struct HostOptions {
  int threads = 0;                 // 0: one per physical core this process may use
  bool exact_activations = false;  // integer formats on unrounded float32 activations (for comparison)
  bool use_avx2 = true;            // false: scalar kernels only (for tests)
  CpuGemm gemm = CpuGemm::kAuto;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // "host (2 threads, AVX2)"
  virtual Result<Buffer> alloc(size_t bytes) = 0;
  // Float32 [n, d], rows may be strided. from and to: of one shape, not aliasing.
  virtual void zero(const Tensor& to) = 0;
  virtual void copy(const Tensor& from, const Tensor& to) = 0;
#define X(name, Args) virtual void name(const Args& args) = 0;
  MOEBIUS_OPS(X)
  MOEBIUS_GRAD_OPS(X)
#undef X
};

std::unique_ptr<Backend> make_host_backend(const HostOptions& options);

// What the processor offers, read once by the caller: for dispatch, `doctor` and messages.
struct CpuFeatures {
  bool avx2 = false;  // with FMA and F16C, which every AVX2 kernel here uses too
  bool avx512 = false, avx512_vnni = false, avx512_bf16 = false, amx_int8 = false;
  std::string describe() const;  // "AVX2 FMA F16C"
};
CpuFeatures cpu_features();
int physical_cores();  // that this process may run on, at least 1

}  // namespace moebius
