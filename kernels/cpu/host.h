// The inside of the host backend: what an operation may use, and the ordered lists of its implementations.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/parallel.h"

namespace moebius {

// Memory for the length of one operation: a stack of frames over blocks that are kept, so that after the
// first step nothing is allocated any more.
class Scratch {
 public:
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }

  class Frame {  // returns all that was taken since, when it ends
   public:
    explicit Frame(Scratch& scratch) : scratch_(scratch), block_(scratch.block_), used_(scratch.used_) {}
    ~Frame() { scratch_.block_ = block_, scratch_.used_ = used_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Scratch& scratch_;
    size_t block_, used_;
  };

 private:
  void* take_bytes(size_t bytes);  // aligned to 64; aborts when the machine has no memory left
  std::vector<Buffer> blocks_;
  size_t block_ = 0, used_ = 0;
};

struct HostContext {
  explicit HostContext(int thread_count = 1) : threads(thread_count), pool(thread_count) {}

  const int threads;
  ThreadPool pool;
  bool exact_activations = false;
  Isa isa = Isa::kScalar;
  CpuGemm gemm = CpuGemm::kAuto;
  Scratch scratch;

  bool avx2() const { return isa >= Isa::kAvx2; }
  const FormatKernels& kernels(Format format) const { return best_kernels(format, isa); }
};

// An implementation of an operation on the host. declines: null if it takes these arguments, else why not.
template <class Args>
struct Candidate {
  const char* name;
  const char* (*declines)(const Args& args, const HostContext& context);
  void (*run)(const Args& args, HostContext& context);
};

template <class Args>
const char* declines_nothing(const Args&, const HostContext&) {
  return nullptr;
}

template <class Args>
const char* needs_avx2(const Args&, const HostContext& context) {
  return context.avx2() ? nullptr : "needs AVX2";
}

template <class Args>
const char* needs_avx512(const Args&, const HostContext& context) {
  return context.isa >= Isa::kAvx512 ? nullptr : "needs AVX-512";
}

// The scalar reference as a candidate: reference_candidate<Args, ref::op>("op_ref").
template <class Args, void (*kReference)(const Args&, bool)>
constexpr Candidate<Args> reference_candidate(const char* name) {
  return {name, declines_nothing<Args>,
          [](const Args& args, HostContext& context) { kReference(args, context.exact_activations); }};
}

// Ordered, fastest first; the last one is the scalar reference and takes everything. host_<op>() is defined
// in kernels/cpu/<file of the op>.cpp.
#define X(name, Args) std::span<const Candidate<Args>> host_##name();
MOEBIUS_OPS(X)
#undef X

}  // namespace moebius
