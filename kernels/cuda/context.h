// What the host side of an operation on a CUDA device may use: its streams, scratch and uploads.
//
// The folder's launchers are free functions `void <op>(Context& context, const <Op>Args& args)`, one to a
// file; dispatch.h checks the arguments (check(args) of ops.h and grad_ops.h) and calls them. All memory that
// the arguments point to is the device's, except for pages, spans, arrays of experts and of their gradients,
// and what ops.h says may be pinned. Launchers queue on compute() and return; nothing in them but upload()
// may wait for the device. A call may have no tokens: a launcher that has nothing to do launches nothing.
#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/grad_ops.h"

namespace moebius::cuda {

class Context {
 public:
  virtual ~Context() = default;
  virtual StreamHandle compute() = 0;
  virtual int multiprocessors() const = 0;

  // Device memory for intermediate results of one operation, aligned to 256 bytes, not zeroed; free again
  // when the operation's kernels are queued, since the stream is in order. Null when the device has no memory
  // left: the launcher returns and the error comes with the next sync().
  virtual void* scratch(int64_t bytes) = 0;
  // Taken when the device was opened. An operation with much to do takes its tokens in pieces (pieces.h) that
  // need no more; more is allocated where one token or one matrix does.
  virtual int64_t scratch_bytes() const = 0;
  // All scratch, and what was uploaded, is free again for what is queued next.
  virtual void reuse_scratch() = 0;
  // Copies host memory to the device for kernels queued next; the caller's memory is free at once. Waits for
  // earlier uploads when there is no pinned memory left, of which a few MB keep copies until they are done.
  virtual const void* upload(const void* from, int64_t bytes) = 0;
  template <class T>
  const T* upload(const T* from, int64_t count) {
    return static_cast<const T*>(
        upload(static_cast<const void*>(from), count * static_cast<int64_t>(sizeof(T))));
  }

  // y[n, rows] = x[n, cols] w[rows, cols]^T (+ y if accumulate), float32 sums: cuBLAS, or its twin in the
  // emulator. w and x of one type: kF32 (no TF32), kBF16 or kF16, each aligned to its elements; strides in
  // elements. The order of a sum may depend on n.
  virtual void gemm(DType type, int64_t n, int64_t rows, int64_t cols, const void* x, int64_t ldx,
                    const void* w, int64_t ldw, float* y, int64_t ldy, bool accumulate) = 0;
};

#define X(name, Args) void name(Context& context, const Args& args);
MOEBIUS_OPS(X)
MOEBIUS_GRAD_OPS(X)
#undef X

}  // namespace moebius::cuda
