// The MoE feed-forward for many slots to an expert: 64 rows by 64 slots to a block, on the matrix units. An
// expert's weights move once for 64 slots from memory or the cache, and 64 slots' numbers once for 64 rows.
#include "kernels/cuda/expert_ffn.h"
#include "kernels/cuda/large_tile.h"

namespace moebius::cuda {
namespace {

template <Format F>
__global__ void up_large(Ffn f) {
  const int64_t row_blocks = (f.widest + kLargeRows - 1) / kLargeRows, items = f.slots.count() * row_blocks;
  for (int64_t item = block_x(); item < items; item += blocks_x()) {
    int64_t block;
    const SlotTile slots = f.slots.item(item, row_blocks, &block);
    const int64_t first_row = block * kLargeRows;
    if (slots.expert < 0) continue;
    const Expert& e = f.experts[slots.expert];
    const int64_t rows = e.gate.rows;
    if (e.elsewhere() || first_row >= rows) continue;
    const TokenRange range{f.slots.order, f.slots.k, slots.first, slots.count};
    LargeSums gate, up;
#pragma unroll 1  // the code of a product once: the compiler takes minutes for it
    for (int part = 0; part < 2; ++part) {
      const Weight w = *(part == 0 ? &e.gate : &e.up);
      up = large_tile_product<F>(w, first_row, w.rows, f.x, range);
      if (part == 0) gate = up;
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int64_t r = first_row + LargeSums::row(i), at = slots.first + LargeSums::token(i);
      if (LargeSums::token(i) >= slots.count || r >= f.h.ld) continue;
      f.h_out[at * f.h.ld + r] = r < rows ? activate(f, slots.expert, r, at, gate[i], up[i]) : 0.0f;
    }
  }
}

template <Format F>
__global__ void down_large(Ffn f) {
  const int64_t row_blocks = (f.hidden + kLargeRows - 1) / kLargeRows, items = f.slots.count() * row_blocks;
  for (int64_t item = block_x(); item < items; item += blocks_x()) {
    int64_t block;
    const SlotTile slots = f.slots.item(item, row_blocks, &block);
    if (slots.expert < 0 || f.experts[slots.expert].elsewhere()) continue;
    const Weight w = f.experts[slots.expert].down;
    const TokenRange range{nullptr, 1, slots.first, slots.count};
    const LargeSums sums = large_tile_product<F>(w, block * kLargeRows, w.rows, f.h, range);
    MOEBIUS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int64_t r = block * kLargeRows + LargeSums::row(i), at = slots.first + LargeSums::token(i);
      if (LargeSums::token(i) < slots.count && r < w.rows) finish_down(f, slots.expert, r, at, sums[i]);
    }
  }
}

}  // namespace

void expert_up_large(Context& context, Format format, const Ffn& f) {
  with_format(format, [&]<Format F>() {
    launch(context.compute(), up_large<F>, Grid{ffn_blocks(context, f, f.widest, kLargeRows)}, kTileBlock,
           large_tile_bytes<F>(), f);
  });
}

void expert_down_large(Context& context, Format format, const Ffn& f) {
  with_format(format, [&]<Format F>() {
    launch(context.compute(), down_large<F>, Grid{ffn_blocks(context, f, f.hidden, kLargeRows)}, kTileBlock,
           large_tile_bytes<F>(), f);
  });
}

}  // namespace moebius::cuda
