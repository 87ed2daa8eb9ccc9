#include "kernels/cuda/float_product.h"

namespace moebius::cuda {
namespace {

template <Lie A, Lie B>
MOEBIUS_PRODUCT_KERNEL multiply_floats(FloatProduct p, Parts parts) {
  float_product_tile<A, B>(p, parts, block_x(), block_y());
}

__global__ void add_parts(FloatProduct p, Parts parts) {
  const int64_t at = block_x() * kTileBlock + thread(), numbers = int64_t{p.rows} * p.cols;
  if (at >= numbers) return;
  float sum = 0;
  for (int32_t part = 0; part < parts.count; ++part) sum += parts.at[part * numbers + at];
  finish_float(p, at / p.cols, at % p.cols, sum);
}

template <Lie A, Lie B>
void launch_product(Context& context, const FloatProduct& p, const Parts& parts) {
  launch(context.compute(), multiply_floats<A, B>, Grid{p.tiles(), parts.count}, kTileBlock,
         kProductBytes<Side<FloatView, A>, Side<FloatView, B>>, p, parts);
}

}  // namespace

void sum_parts(Context& context, const FloatProduct& p, const Parts& parts) {
  if (parts.at)
    launch(context.compute(), add_parts, Grid{blocks_for(int64_t{p.rows} * p.cols, kTileBlock)}, kTileBlock,
           0, p, parts);
}

// Reads A once for every 64 columns of C and B once for every 64 rows, all but the first from the second
// level of cache where that holds them, and C once where it is added to; writes C.
void float_product(Context& context, Lie a, Lie b, const FloatProduct& p) {
  if (p.rows == 0 || p.cols == 0) return;
  Parts parts = parts_of(context, p.tiles(), p.k_end - p.k_begin);
  if (!take_parts(context, int64_t{p.rows} * p.cols, parts)) return;
  if (a == Lie::kAcross)
    launch_product<Lie::kAcross, Lie::kAcross>(context, p, parts);
  else if (b == Lie::kAcross)
    launch_product<Lie::kAlong, Lie::kAcross>(context, p, parts);
  else
    launch_product<Lie::kAlong, Lie::kAlong>(context, p, parts);
  sum_parts(context, p, parts);
}

}  // namespace moebius::cuda
