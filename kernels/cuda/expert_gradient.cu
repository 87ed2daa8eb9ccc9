#include "kernels/cuda/expert_gradient.h"

#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/swiglu_slope.h"

namespace moebius::cuda::gradient {
namespace {

constexpr int kBlocks = 4;  // for each multiprocessor, at most: more go round and round

using RowSide = Side<FloatView, Lie::kAlong>;
template <Lie L>
inline constexpr int kShared = kProductBytes<RowSide, Side<FloatView, L>>;

// The matrix of an adapter that follows the weights, or that rows go through first.
template <Lie L>
__device__ FloatView adapter_view(const LoraView& lora, const Weight& w, bool through) {
  const bool a = (L == Lie::kAlong) == through;
  return a ? float_view(lora.a, lora.rank, w.cols, w.cols) : float_view(lora.b, w.rows, lora.rank, lora.rank);
}

template <Lie L>
MOEBIUS_PRODUCT_KERNEL expert_mids(Experts e, Mid m) {
  for (int64_t item = block_x(); item < e.slots.count(); item += blocks_x()) {
    const SlotTile slots = e.slots.at(item);
    const LoraView lora = lora_of(e.adapters, slots.expert, m.which);
    if (!lora.a) continue;
    const FloatView matrix = adapter_view<L>(lora, matrix_of(e.experts[slots.expert], m.which), true);
    const int32_t depth = L == Lie::kAlong ? matrix.cols : matrix.rows;
    for (int32_t column = 0; column < lora.rank; column += kGradLines) {
      RowSide rows{m.rows.view(slots.first + slots.count, depth), slots.first};
      Side<FloatView, L> through{matrix, column};
      const TileSize size{slots.count, lines_left(column, lora.rank)};
      LargeSums sums;
      add_product(rows, through, 0, depth, size, 0, sums);
      MOEBIUS_UNROLL
      for (int i = 0; i < 16; ++i)
        if (LargeSums::row(i) < size.a && LargeSums::token(i) < size.b)
          m.mid[int64_t{slots.first + LargeSums::row(i)} * e.rank + column + LargeSums::token(i)] = sums[i];
    }
  }
}

// sums += a term's part of a tile.
template <Format F, Lie L>
__device__ void add_term(const Experts& e, const Term& term, const SlotTile& slots, const Weight& w,
                         int32_t column, TileSize size, LargeSums& sums) {
  const int32_t end = slots.first + slots.count, depth = L == Lie::kAlong ? w.cols : w.rows;
  {
    RowSide rows{term.rows.view(end, depth), slots.first};
    Side<WeightView<F>, L> weights{{w}, column};
    add_product(rows, weights, 0, depth, size, 0, sums);
  }
  const LoraView lora = lora_of(e.applied, slots.expert, term.which);
  if (!lora.a) return;
  RowSide mid{float_view(term.mid, end, lora.rank, e.rank), slots.first};
  Side<FloatView, L> adapter{adapter_view<L>(lora, w, false), column};
  LargeSums more;
  add_product(mid, adapter, 0, lora.rank, size, 0, more);
  sums.add(lora.scale, more);
}

// An expert's weights of a block of columns move once for 64 of its slots, whose blocks follow one another.
template <Format F, Lie L>
MOEBIUS_PRODUCT_KERNEL expert_product(Experts e, Grouped g) {
  const int64_t blocks = (g.columns + kGradLines - 1) / kGradLines, items = e.slots.count() * blocks;
  for (int64_t item = block_x(); item < items; item += blocks_x()) {
    int64_t block;
    const SlotTile slots = e.slots.item(item, blocks, &block);
    const Expert& expert = e.experts[slots.expert];
    const int32_t column = static_cast<int32_t>(block) * kGradLines;
    const Weight first = matrix_of(expert, g.terms[0].which);
    const int32_t columns = L == Lie::kAlong ? first.rows : first.cols;
    if (column >= columns) continue;
    const TileSize size{slots.count, lines_left(column, columns)};
    LargeSums sums;
    bool mine = false, add = false;  // of two formats the lower sets what the other adds to
    for (int t = 0; t < g.count; ++t) {
      const Weight w = matrix_of(expert, g.terms[t].which);
      add = add || w.format < F;
      if (w.format != F) continue;
      mine = true;
      add_term<F, L>(e, g.terms[t], slots, w, column, size, sums);
    }
    if (!mine) continue;
    MOEBIUS_UNROLL
    for (int i = 0; i < 16; ++i) {
      if (LargeSums::row(i) >= size.a || LargeSums::token(i) >= size.b) continue;
      const int64_t number = slots.first + LargeSums::row(i);
      const int64_t slot = g.ld ? 0 : e.slots.slot(number);
      float* to = g.out + column + LargeSums::token(i) +
                  (g.ld ? number * g.ld : slot / e.slots.k * g.token_ld + slot % e.slots.k * g.slot_ld);
      *to = add ? *to + sums[i] : sums[i];
    }
  }
}

// A block's part of a slot's row, N numbers at a time; returns this thread's part of dh . h.
template <int N>
__device__ float pass_row(float* gate, float* up, float* dh, int64_t width, float weight) {
  float along = 0;
  for (int64_t j = N * thread(); j < width; j += N * kTileBlock) {
    Floats<N> g = load<N>(gate + j), u = load<N>(up + j), d = load<N>(dh + j);
    for (int i = 0; i < N; ++i) {
      const SwigluSlope slope = swiglu_slope(g.at[i], u.at[i]);
      const float h = slope.up * u.at[i], weighted = weight * d.at[i];
      along = fmaf(d.at[i], h, along);
      g.at[i] = weighted * slope.gate, u.at[i] = weighted * slope.up, d.at[i] = weight * h;
    }
    store(gate + j, g), store(up + j, u), store(dh + j, d);
  }
  return along;
}

// A block to a slot. Rows start at multiples of 16 bytes.
__global__ void swiglu_slopes(Experts e, Slopes s) {
  MOEBIUS_SHARED(float, partial, kWarp);
  const int64_t number = block_x();
  if (number >= e.used()) return;
  const int64_t slot = e.slots.slot(number), token = slot / e.slots.k, place = slot % e.slots.k;
  const int64_t width = e.experts[e.expert_of(slot)].gate.rows;
  const float weight = s.weights[token * s.weights_ld + place];
  float *gate = s.gate + number * s.ld, *up = s.up + number * s.ld, *dh = s.dh + number * s.ld;
  const float along =
      width % 4 == 0 ? pass_row<4>(gate, up, dh, width, weight) : pass_row<1>(gate, up, dh, width, weight);
  const float sum = block_sum(along, partial);
  if (s.dweights && thread() == 0) s.dweights[token * s.dweights_ld + place] = sum;
}

// Reads A once for every 64 columns of C and B once for every 64 rows; C stands in memory once each way.
MOEBIUS_PRODUCT_KERNEL
expert_outer(Experts e, const Outer* outers, int64_t most_tiles) {
  const Outer& outer = outers[block_x() / most_tiles];
  const int64_t tile = block_x() % most_tiles;
  const int32_t first = e.slots.firsts[outer.expert], count = e.slots.counts[outer.expert];
  FloatProduct p = outer.product;
  if (tile >= p.tiles() || count == 0) return;
  p.k_begin = first, p.k_end = first + count;
  p.a = outer.a.view(p.k_end, p.rows), p.b = outer.b.view(p.k_end, p.cols);
  float_product_tile<Lie::kAcross, Lie::kAcross>(p, Parts{}, tile, 0);
}

__global__ void slot_tokens(Experts e, int32_t* tokens) {
  const int64_t number = block_x() * kTileBlock + thread();
  if (number < e.used()) tokens[number] = e.slots.slot(number) / e.slots.k;
}

__global__ void clear_dweights(const int32_t* ids, int64_t ids_ld, int64_t k, int64_t slots, float* dweights,
                               int64_t ld) {
  const int64_t at = block_x() * kTileBlock + thread();
  if (at < slots && ids[at / k * ids_ld + at % k] < 0) dweights[at / k * ld + at % k] = 0;
}

Grid grid_for(Context& context, int64_t items) {
  return {std::max<int64_t>(1, std::min(int64_t{kBlocks} * context.multiprocessors(), items))};
}

template <Lie L>
void launch_products(Context& context, const Experts& e, const bool (&formats)[kFormats], const Grouped& g) {
  const Grid grid = grid_for(context, e.slots.most_tiles * blocks_for(g.columns, kGradLines));
  for (int format = 0; format < kFormats; ++format) {
    if (!formats[format]) continue;
    with_format(static_cast<Format>(format), [&]<Format F>() {
      launch(context.compute(), expert_product<F, L>, grid, kTileBlock, kShared<L>, e, g);
    });
  }
}

}  // namespace

void make_mids(Context& context, const Experts& e, Lie lie, const Mid& mid) {
  const Grid grid = grid_for(context, e.slots.most_tiles);
  if (lie == Lie::kAlong)
    launch(context.compute(), expert_mids<Lie::kAlong>, grid, kTileBlock, kShared<Lie::kAlong>, e, mid);
  else
    launch(context.compute(), expert_mids<Lie::kAcross>, grid, kTileBlock, kShared<Lie::kAcross>, e, mid);
}

void multiply_experts(Context& context, const Experts& e, Lie lie, const bool (&formats)[kFormats],
                      const Grouped& g) {
  if (lie == Lie::kAlong)
    launch_products<Lie::kAlong>(context, e, formats, g);
  else
    launch_products<Lie::kAcross>(context, e, formats, g);
}

// Reads and writes three rows of each slot once: 24 bytes a number.
void pass_swiglu(Context& context, const Experts& e, int64_t slots, const Slopes& s) {
  launch(context.compute(), swiglu_slopes, Grid{slots}, kTileBlock, 0, e, s);
}

void add_outers(Context& context, const Experts& e, const Outer* outers, int64_t count, int64_t most_tiles) {
  const Outer* on_device = context.upload(outers, count);
  if (!on_device || most_tiles == 0) return;
  launch(context.compute(), expert_outer, Grid{count * most_tiles}, kTileBlock,
         kProductBytes<Side<FloatView, Lie::kAcross>, Side<FloatView, Lie::kAcross>>, e, on_device,
         most_tiles);
}

void find_tokens(Context& context, const Experts& e, int64_t slots, int32_t* tokens) {
  launch(context.compute(), slot_tokens, Grid{blocks_for(slots, kTileBlock)}, kTileBlock, 0, e, tokens);
}

void clear_unused(Context& context, const Tensor& ids, const Tensor& dweights) {
  const int64_t k = ids.shape[1], slots = ids.shape[0] * k;
  launch(context.compute(), clear_dweights, Grid{blocks_for(slots, kTileBlock)}, kTileBlock, 0,
         static_cast<const int32_t*>(ids.i32()), ids.stride[0], k, slots, dweights.f32(), dweights.stride[0]);
}

}  // namespace moebius::cuda::gradient
