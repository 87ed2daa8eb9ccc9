#include "kernels/cuda/column_sums.h"

namespace moebius::cuda {
namespace {

__global__ void add_parts(const float* parts, int64_t parts_count, int64_t columns, float* to) {
  const int64_t c = block_x() * kColumnSumThreads + thread();
  if (c >= columns) return;
  float sum = 0;
  for (int64_t p = 0; p < parts_count; ++p) sum += parts[p * columns + c];
  to[c] += sum;
}

}  // namespace

void add_column_parts(Context& context, const float* parts, int64_t parts_count, int64_t columns, float* to) {
  launch(context.compute(), add_parts, Grid{blocks_for(columns, kColumnSumThreads)}, kColumnSumThreads, 0,
         parts, parts_count, columns, to);
}

}  // namespace moebius::cuda
