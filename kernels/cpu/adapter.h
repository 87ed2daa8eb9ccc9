// Low-rank adapters on the host. By rows, an adapter's part of a product is made by the row kernels of
// float32, so that a token's bits do not depend on its company; by panels, with the matrix products.
#pragma once

#include "kernels/cpu/products.h"

namespace moebius {

// A float32 matrix over a contiguous tensor [rows, cols].
Matrix matrix_over(const Tensor& t);

// What an adapter adds to products of some tokens, ready to be added; empty() where there is nothing to add.
struct Adapter {
  Matrix b;         // [rows, rank]
  Activations mid;  // [n, rank]: scale * (a x)
  bool empty() const { return b.empty(); }
};

// Memory for the adapter of w, if it has one, over n tokens, from the scratch.
Adapter take_adapter(const Matrix& w, int64_t n, Scratch& scratch);
// Its mid of tokens [begin, end), on the calling thread: token i is row tokens ? tokens[i] : i of x.
void fill_adapter(const Matrix& w, const Adapter& adapter, const Activations& x, const int32_t* tokens,
                  int64_t begin, int64_t end, const HostContext& context);
// Both, for tokens x, threads inside.
Adapter prepare_adapter(const Matrix& w, const Activations& x, int64_t n, HostContext& context);

// tile [count, end - begin] += its part of rows [begin, end), tokens [first, first + count).
void add_adapter(const Adapter& adapter, int64_t begin, int64_t end, int64_t first, int64_t count,
                 float* tile, const HostContext& context);

// multiply_panels, and the adapter's part.
void multiply_panels_adapted(const Matrix& w, const float* x, int64_t ldx, int64_t n, float* y, int64_t ldy,
                             bool accumulate, HostContext& context);

}  // namespace moebius
