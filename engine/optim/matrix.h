// What the parts of an optimizer stand on: dense float32 matrices, a team of threads whose size never changes
// a bit, and memory handed out from one block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/parallel.h"
#include "kernels/status.h"

namespace moebius::optim {

// Dense row-major float32 [rows, cols], non-owning. Vectors are [1, n].
template <class T>
struct MatrixOf {
  T* data = nullptr;
  int64_t rows = 0, cols = 0;

  MatrixOf() = default;
  MatrixOf(T* at, int64_t n_rows, int64_t n_cols) : data(at), rows(n_rows), cols(n_cols) {}
  template <class U>
  MatrixOf(const MatrixOf<U>& other) : data(other.data), rows(other.rows), cols(other.cols) {}  // NOLINT

  int64_t size() const { return rows * cols; }
  T* row(int64_t r) const { return data + r * cols; }
  std::span<T> values() const { return {data, static_cast<size_t>(size())}; }
};
using MatrixView = MatrixOf<float>;
using ConstMatrixView = MatrixOf<const float>;

inline constexpr int64_t kBlockElements = 1 << 16;  // of loops over numbers
inline constexpr int64_t kBlockRows = 128;          // of matrix products

// Runs blocks on a pool, or on the calling thread when there is none. Blocks are cut by size alone, so a
// result is the same for any number of threads, and with or without a pool.
struct Team {
  ThreadPool* pool = nullptr;

  // body(begin, end) over blocks that cover [0, n).
  template <class Body>
  void blocks(int64_t n, int64_t block, Body&& body) const {
    if (pool) return parallel_for(*pool, n, block, body);
    for (int64_t begin = 0; begin < n; begin += block) body(begin, std::min(n, begin + block));
  }
};

// Hands out pieces of one block of memory; the pieces live as long as the block.
struct Scratch {
  float* next = nullptr;
  int64_t left = 0;

  float* take(int64_t n) {
    MOEBIUS_CHECK(n <= left, "an optimizer part used more scratch than it asked for");
    float* piece = next;
    next += n, left -= n;
    return piece;
  }
};

// y = x w^T, x w, x^T w; or y += that. y aliases neither.
void multiply_nt(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y,
                 bool accumulate = false);
void multiply_nn(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y,
                 bool accumulate = false);
void multiply_tn(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y,
                 bool accumulate = false);
void scale(const Team& team, std::span<float> values, float factor);
// Summed in float64.
double sum_of_squares(const Team& team, std::span<const float> values);

}  // namespace moebius::optim
