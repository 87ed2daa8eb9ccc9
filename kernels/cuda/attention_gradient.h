// What the kernels of attention's backward share.
#pragma once

#include "kernels/cuda/grad_tile.h"

namespace moebius::cuda::gradient {

inline constexpr int kHeld = 4;  // blocks of 64 columns of gradients that a block of threads adds up

// Rows of a [n, heads, columns] tensor, or of a [n, columns] one, whose heads are one.
struct Rows {
  float* at = nullptr;
  int64_t token = 0, head = 0;  // strides
  int32_t columns = 0;
  bool wide = false;

  __device__ float* row(int64_t t, int64_t h) const { return at + t * token + h * head; }
  __device__ FloatView view(int64_t h, int32_t n) const {
    FloatView v;
    v.at = at + h * head, v.ld = token, v.rows = n, v.cols = columns, v.wide = wide;
    return v;
  }
};

// Of the softmax of one query and head: weight of a key = exp(scale * score - highest) * inverse; mean: of
// the gradients of the weights, by the weights.
struct Stats {
  float highest, inverse, mean;
};

struct Gradient {
  Rows q, q_rest, k, shared, v, out, dout;  // q and its part for the shared key
  Rows dq, dk, dv;
  float* dshared = nullptr;                        // of each key/value head: [kv_heads, n, columns of shared]
  Stats* stats = nullptr;                          // [heads, n]
  const int32_t *begin = nullptr, *end = nullptr;  // [n]: of the sequence of each token
  int32_t n = 0, heads = 0, kv_heads = 0;
  float scale = 1;

  __host__ __device__ int32_t group() const { return heads / kv_heads; }
  __host__ __device__ int32_t tiles() const { return (n + kGradLines - 1) / kGradLines; }
  __device__ Rows shared_rows() const {
    return {dshared, shared.columns, int64_t{n} * shared.columns, shared.columns, false};
  }
  __device__ Stats& of(int32_t head, int32_t query) const { return stats[int64_t{head} * n + query]; }
  __device__ bool sees(int32_t query, int32_t key) const {
    return query < n && key <= query && key >= begin[query];
  }
};

// A block of columns of gradients: of keys' own parts, of the shared one, of values.
enum class What : int32_t { kOwn, kRest, kValue };
struct Columns {
  What what = What::kOwn;
  int32_t first = 0;
};
struct HeldColumns {
  Columns at[kHeld];
  int count = 0;

  __device__ bool any(bool values) const {
    bool found = false;
    MOEBIUS_UNROLL
    for (int i = 0; i < kHeld; ++i) found = found || (i < count && (at[i].what == What::kValue) == values);
    return found;
  }
};

// Launchers, in this order. All queue on the compute stream.
void find_stats(Context& context, const Gradient& g);
void raise_highest(Context& context, const Gradient& g, float* highest);
void pass_to_queries(Context& context, const Gradient& g, const HeldColumns& held);
void pass_to_keys(Context& context, const Gradient& g, const HeldColumns& held);
void add_shared(Context& context, const Gradient& g, float* dshared, int64_t ld);

}  // namespace moebius::cuda::gradient
