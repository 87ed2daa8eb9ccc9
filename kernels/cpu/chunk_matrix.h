// A matrix through which chunks of an expert's tokens pass, forward and backward, on one thread: float32
// values, its adapter, and the sums of its gradients.
#pragma once

#include "kernels/cpu/host.h"

namespace moebius {

// Tokens that pass together, so that their numbers and some weights stay in a core's cache.
inline constexpr int64_t kChunk = 256;

// Where gradients are summed, each may be empty.
struct MatrixSums {
  Tensor dw, da, db;
};

class ChunkMatrix {
 public:
  struct Memory {
    Memory(int64_t numbers, int64_t rank, Scratch& scratch)
        : copy(scratch.take<float>(numbers)),
          mid(scratch.take<float>(kChunk * rank)),
          dmid(scratch.take<float>(kChunk * rank)) {}
    float* copy;        // of the matrix, where it does not lie in float32
    float *mid, *dmid;  // [chunk, rank]: scale * x a^T, scale * dy b
  };
  ChunkMatrix(const Matrix& w, const MatrixSums& sums, const Memory& memory, const HostContext& context);

  // y [n, rows] = x w^T. All rows lie side by side here and below; n <= kChunk.
  void product(int64_t n, const float* x, float* y) const;
  // dx [n, cols] (+)= dy w, unless dx is null.
  void pass_back(int64_t n, const float* dy, float* dx, bool accumulate) const;
  // What db needs of x; product sees to it too.
  void meet(int64_t n, const float* x) const;
  // Sums over n tokens, after product or meet with this x and pass_back with this dy.
  void add_sums(int64_t n, const float* x, const float* dy) const;

 private:
  int64_t rank() const { return w_.lora->a.shape[0]; }
  void make_mid(int64_t n, const float* x) const;
  void scale(float* mid, int64_t n) const;

  const Matrix& w_;
  const MatrixSums& sums_;
  const Memory& memory_;
  const float* values_;
};

// What Memory needs room for.
int64_t numbers_copied(const Matrix& w);  // 0 where it lies in float32
int64_t adapter_rank(const Matrix& w);    // 0 for none

}  // namespace moebius
