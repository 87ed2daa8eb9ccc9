// Sums over the rows of a matrix, column by column, added to a vector: gradients of biases and norms.
#pragma once

#include "kernels/cuda/context.h"

namespace moebius::cuda {

inline constexpr int kColumnSumThreads = 128;
inline constexpr int64_t kColumnSumRows = 64;  // that a thread adds up

// parts[p, c]: the sum over the rows of part p, ascending.
template <class Number>
__global__ void column_parts(const __grid_constant__ Number number, int64_t rows, int64_t columns,
                             int64_t parts_count, float* parts) {
  const int64_t part = block_x() % parts_count;
  const int64_t c = block_x() / parts_count * kColumnSumThreads + thread();
  if (c >= columns) return;
  const int64_t begin = part * kColumnSumRows;
  const int64_t end = begin + kColumnSumRows < rows ? begin + kColumnSumRows : rows;
  float sum = 0;
  for (int64_t r = begin; r < end; ++r) sum += number(r, c);
  parts[part * columns + c] = sum;
}

// to[c] += the sum of all parts, ascending.
void add_column_parts(Context& context, const float* parts, int64_t parts_count, int64_t columns, float* to);

// to[c] += sum over r of number(r, c). Reads what `number` reads once, side by side in a warp, and moves a
// sixty-fourth of that for the parts.
template <class Number>
void add_column_sums(Context& context, int64_t rows, int64_t columns, const Number& number, float* to) {
  if (rows == 0 || columns == 0) return;
  const int64_t parts_count = blocks_for(rows, kColumnSumRows);
  auto* parts =
      static_cast<float*>(context.scratch(parts_count * columns * static_cast<int64_t>(sizeof(float))));
  if (!parts) return;
  launch(context.compute(), column_parts<Number>, Grid{blocks_for(columns, kColumnSumThreads) * parts_count},
         kColumnSumThreads, 0, number, rows, columns, parts_count, parts);
  add_column_parts(context, parts, parts_count, columns, to);
}

}  // namespace moebius::cuda
