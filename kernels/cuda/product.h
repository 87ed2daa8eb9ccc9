// Products of tokens with a matrix by blocks of rows, in place: linear on few tokens, and MLA's values.
//
// Weights move once for every eight tokens (once from memory, then from the cache: blocks of the same rows
// are neighbours), tokens once for a block of rows; at one token the weights are all that counts.
#pragma once

#include <algorithm>

#include "kernels/cuda/tile.h"

namespace moebius::cuda {

// For each head h: y[t, h, r] = (accumulate: y +) row (h * head_rows + head_first + r) of w . x[t, h] + bias.
struct Product {
  Weight w;
  Inputs in;  // of head 0
  float* y = nullptr;
  const float* bias = nullptr;  // [rows] of one head, or null
  Adapter adapter;
  int64_t n = 0, rows = 0, ldy = 0;
  int64_t head_rows = 0, head_first = 0, head_x = 0, head_y = 0;  // strides from head to head
  bool accumulate = false;
};

__device__ inline void finish_product(const Product& p, int64_t h, int64_t r, int64_t t, float value) {
  value += adapter_part(p.adapter, r, t);
  if (p.bias) value += p.bias[r];
  float* y = p.y + h * p.head_y + t * p.ldy + r;
  *y = p.accumulate ? *y + value : value;
}

template <Format F, bool kRounded, int R, int T>
__global__ void product_rows(Product p) {
  const Shared<float> shared = dynamic_shared<float>(0, kTileFloats<F, kRounded, R, T>);
  const int64_t token_tiles = (p.n + T - 1) / T, h = block_y();
  const int64_t first_token = block_x() % token_tiles * T, first_row = block_x() / token_tiles * R;
  TileOf<T> tile;
  tile.first = h * p.head_rows + p.head_first + first_row;
  tile.end = h * p.head_rows + p.head_first + p.rows;
  tile.count = static_cast<int>(p.n - first_token < T ? p.n - first_token : T);
  MOEBIUS_UNROLL
  for (int t = 0; t < T; ++t) tile.token[t] = t < tile.count ? first_token + t : first_token;
  Inputs in = p.in;
  in.x += h * p.head_x;
  const float value = tile_product<F, kRounded, R, T>(p.w, tile, in, shared);
  const int64_t r = first_row + thread() % R, t = first_token + thread() / R;
  if (thread() >= R * tile.count || r >= p.rows) return;
  finish_product(p, h, r, t, value);
}

template <Format F, bool kRounded, int R, int T>
void launch_product_tile(Context& context, const Product& p, int heads) {
  const int64_t blocks = blocks_for(p.rows, R) * blocks_for(p.n, T);
  launch(context.compute(), product_rows<F, kRounded, R, T>, Grid{blocks, heads}, kTileBlock,
         sizeof(float) * kTileFloats<F, kRounded, R, T>, p);
}

// Blocks of few rows where there are too few rows to give every multiprocessor large ones.
template <Format F, bool kRounded>
void launch_product(Context& context, const Product& p, int heads) {
  if (p.n == 0 || p.rows == 0 || heads == 0) return;
  const bool small = blocks_for(p.rows, 32) * blocks_for(p.n, 8) * heads < 2 * context.multiprocessors();
  if (p.n == 1) {
    small ? launch_product_tile<F, kRounded, 8, 1>(context, p, heads)
          : launch_product_tile<F, kRounded, 32, 1>(context, p, heads);
  } else {
    small ? launch_product_tile<F, kRounded, 8, 8>(context, p, heads)
          : launch_product_tile<F, kRounded, 32, 8>(context, p, heads);
  }
}

}  // namespace moebius::cuda
