#include "kernels/cuda/attention_gradient.h"

#include <cmath>

namespace moebius::cuda::gradient {
namespace {

__device__ int32_t block() { return static_cast<int32_t>(block_x()); }

using RowSide = Side<FloatView, Lie::kAlong>;
using ColumnSide = Side<FloatView, Lie::kAcross>;

// Shared memory: both sides of a product, and a tile of weights or their gradients as a side of the next one.
constexpr int kStage = kProductBytes<RowSide, RowSide>;
constexpr int kKeptLine8 = 20;
constexpr int kKeptBytes = FloatView::kParts * kGradLines * kKeptLine8 * 8;

__device__ void add_rows(const FloatView& a, int32_t a_first, const FloatView& b, int32_t b_first,
                         TileSize size, LargeSums& sums) {
  RowSide left{a, a_first}, right{b, b_first};
  add_product(left, right, 0, a.cols, size, 0, sums);
}
// q . key of tiles of queries and keys of a head; keys_first: keys are lines of A, queries of B.
__device__ LargeSums make_scores(const Gradient& g, int32_t h, int32_t query, int32_t key, bool keys_first,
                                 TileSize size) {
  const int32_t kv = h / g.group();
  LargeSums sums;
  const FloatView q = g.q.view(h, g.n), k = g.k.view(kv, g.n);
  keys_first ? add_rows(k, key, q, query, size, sums) : add_rows(q, query, k, key, size, sums);
  if (g.shared.at) {
    const FloatView rest = g.q_rest.view(h, g.n), shared = g.shared.view(0, g.n);
    keys_first ? add_rows(shared, key, rest, query, size, sums)
               : add_rows(rest, query, shared, key, size, sums);
  }
  return sums;
}
// dout . value of the same.
__device__ LargeSums make_weight_gradients(const Gradient& g, int32_t h, int32_t query, int32_t key,
                                           bool keys_first, TileSize size) {
  LargeSums sums;
  const FloatView dout = g.dout.view(h, g.n), v = g.v.view(h / g.group(), g.n);
  keys_first ? add_rows(v, key, dout, query, size, sums) : add_rows(dout, query, v, key, size, sums);
  return sums;
}

// A tile goes to shared memory behind the stage: lines as they are, columns as k.
__device__ void keep(const LargeSums& tile) {
  const Shared<uint32_t> words = dynamic_shared<uint32_t>(kStage, kKeptBytes / 4);
  MOEBIUS_UNROLL
  for (int i = 0; i < 16; i += 2) {
    float low = tile[i], high = tile[i + 1];
    MOEBIUS_UNROLL
    for (int part = 0; part < FloatView::kParts; ++part) {
      const uint32_t bits = split_off(low);
      words[(part * kGradLines + LargeSums::row(i)) * (kKeptLine8 * 2) + LargeSums::token(i) / 2] =
          bits | split_off(high) << 16;
    }
  }
}
// sums += what was kept times the rows of `view` from `row` on, of columns from `column` on. All threads
// call, the first time after keep().
__device__ void add_kept(const FloatView& view, int32_t row, int rows, int32_t column, TileSize size,
                         LargeSums& sums) {
  ColumnSide b{view, column};
  b.fetch(row);
  for (int k = 0; k < rows; k += kGradChunk) {
    b.store(0);
    barrier();
    if (k + kGradChunk < rows) b.fetch(row + k + kGradChunk);
    MOEBIUS_UNROLL
    for (int step = 0; step < kGradChunk / 16; ++step)
      if (k + 16 * step < rows)
        multiply_lines<FloatView::kParts, FloatView::kParts>({kStage, kKeptLine8}, {0, kGradLine8},
                                                             k / 16 + step, step, size, sums);
    barrier();
  }
}

// ---- the softmax ----

struct Softmax {
  float highest, sum;
};
__device__ Softmax joined(const Softmax& a, const Softmax& b) {
  const float top = fmaxf(a.highest, b.highest);
  return {top, a.sum * expf(a.highest - top) + b.sum * expf(b.highest - top)};
}
constexpr Softmax kNothing{-1e30f, 0};  // finite, so that it joins with itself

// A thread's part of a row of scores joins the row's softmax. r: of the four rows that a thread has.
__device__ void take_in(const Gradient& g, const LargeSums& scores, int r, int32_t query, int32_t key,
                        Softmax& row) {
  float score[4], top = row.highest;
  MOEBIUS_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int i = r / 2 * 8 + r % 2 * 2 + j / 2 * 4 + j % 2;
    const bool seen = g.sees(query + LargeSums::row(i), key + LargeSums::token(i));
    score[j] = seen ? g.scale * scores[i] : -INFINITY;
    top = fmaxf(top, score[j]);
  }
  row.sum *= expf(row.highest - top), row.highest = top;
  MOEBIUS_UNROLL
  for (int j = 0; j < 4; ++j) row.sum += expf(score[j] - top);
}

// A block to 64 queries of a head, those that see most first.
MOEBIUS_PRODUCT_KERNEL find_softmax(Gradient g) {
  constexpr int kAcross = 4;  // warps side by side over the keys of a tile
  MOEBIUS_SHARED(Softmax, partial, kGradLines * kAcross);
  MOEBIUS_SHARED(float, mean, kGradLines);
  const int32_t h = block() % g.heads, query = (g.tiles() - 1 - block() / g.heads) * kGradLines;
  const int queries = lines_left(query, g.n);
  Softmax rows[4] = {kNothing, kNothing, kNothing, kNothing};
  for (int32_t key = g.begin[query]; key < query + queries; key += kGradLines) {
    const TileSize size{queries, lines_left(key, query + queries)};
    const LargeSums scores = make_scores(g, h, query, key, false, size);
    MOEBIUS_UNROLL
    for (int r = 0; r < 4; ++r) take_in(g, scores, r, query, key, rows[r]);
  }
  MOEBIUS_UNROLL
  for (int r = 0; r < 4; ++r) {
    Softmax row = rows[r];
    for (int mask = 1; mask < 4; mask *= 2) {  // lanes of one row; the same order for all of them
      const Softmax other{shuffle_xor(row.highest, mask), shuffle_xor(row.sum, mask)};
      row = (lane() & mask) == 0 ? joined(row, other) : joined(other, row);
    }
    if (lane() % 4 == 0) partial[LargeSums::row(r / 2 * 8 + r % 2 * 2) * kAcross + warp() % 4] = row;
  }
  for (int i = warp(); i < queries; i += kTileWarps) {
    const float along = warp_dot(g.dout.row(query + i, h), g.out.row(query + i, h), g.dout.columns);
    if (lane() == 0) mean[i] = along;
  }
  barrier();
  if (thread() >= queries) return;
  Softmax row = kNothing;
  for (int i = 0; i < kAcross; ++i) row = joined(row, partial[thread() * kAcross + i]);
  g.of(h, query + thread()) = {row.highest, 1.0f / row.sum, mean[thread()]};
}

// A block to a head.
__global__ void raise_highest_of_heads(Gradient g, float* highest) {
  MOEBIUS_SHARED(float, partial, kTileWarps);
  const Stats* stats = g.stats + block_x() * g.n;
  float top = stats[0].highest;
  for (int32_t t = thread(); t < g.n; t += kTileBlock) top = fmaxf(top, stats[t].highest);
  top = warp_max(top);
  if (lane() == 0) partial[warp()] = top;
  barrier();
  if (thread() > 0) return;
  top = highest[block_x()];
  for (int w = 0; w < kTileWarps; ++w) top = fmaxf(top, partial[w]);
  highest[block_x()] = top;
}

// ---- gradients ----

// The weight of a key to a query, 0 where it is not seen.
__device__ float key_weight(const Gradient& g, const Stats& stats, int32_t query, int32_t key, float score) {
  return g.sees(query, key) ? expf(g.scale * score - stats.highest) * stats.inverse : 0.0f;
}

// What a block holds is added to rows of `to`, or set.
__device__ void add_held(const LargeSums& held, const Rows& to, int32_t first_row, int32_t h, int32_t column,
                         TileSize size, bool add) {
  MOEBIUS_UNROLL
  for (int i = 0; i < 16; ++i) {
    if (LargeSums::row(i) >= size.a || LargeSums::token(i) >= size.b) continue;
    float* at = to.row(first_row + LargeSums::row(i), h) + column + LargeSums::token(i);
    *at = add ? *at + held[i] : held[i];
  }
}

// A block to 64 queries of a head, those that see most first: dq += scale w (dw - mean) k.
__global__ void __launch_bounds__(kTileBlock) query_gradients(Gradient g, HeldColumns columns) {
  const int32_t h = block() % g.heads, query = (g.tiles() - 1 - block() / g.heads) * kGradLines;
  const int queries = lines_left(query, g.n);
  LargeSums held[kHeld];
  for (int32_t key = g.begin[query]; key < query + queries; key += kGradLines) {
    const TileSize size{queries, lines_left(key, query + queries)};
    LargeSums tile = make_scores(g, h, query, key, false, size);
    const LargeSums slopes = make_weight_gradients(g, h, query, key, false, size);
    MOEBIUS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int32_t t = query + LargeSums::row(i);
      const Stats stats = t < g.n ? g.of(h, t) : Stats{};
      tile[i] =
          key_weight(g, stats, t, key + LargeSums::token(i), tile[i]) * g.scale * (slopes[i] - stats.mean);
    }
    keep(tile);
    MOEBIUS_UNROLL
    for (int b = 0; b < kHeld; ++b) {
      if (b >= columns.count) continue;
      const FloatView keys =
          columns.at[b].what == What::kOwn ? g.k.view(h / g.group(), g.n) : g.shared.view(0, g.n);
      add_kept(keys, key, size.b, columns.at[b].first, {queries, lines_left(columns.at[b].first, keys.cols)},
               held[b]);
    }
  }
  MOEBIUS_UNROLL
  for (int b = 0; b < kHeld; ++b) {
    if (b >= columns.count) continue;
    const bool rest = columns.at[b].what == What::kRest;
    const int32_t first = columns.at[b].first, own = g.k.columns;
    add_held(held[b], g.dq, query, h, (rest ? own : 0) + first,
             {queries, lines_left(first, rest ? g.dq.columns - own : own)}, true);
  }
}

// The kept tile, keys by queries, times rows of the queries: of dout for values, of q for keys.
template <bool kValues>
__device__ void add_to_held(const Gradient& g, const HeldColumns& columns, int32_t h, int32_t query,
                            TileSize size, LargeSums (&held)[kHeld]) {
  MOEBIUS_UNROLL
  for (int b = 0; b < kHeld; ++b) {
    const What what = columns.at[b].what;
    if (b >= columns.count || (what == What::kValue) != kValues) continue;
    const FloatView rows = kValues              ? g.dout.view(h, g.n)
                           : what == What::kOwn ? g.q.view(h, g.n)
                                                : g.q_rest.view(h, g.n);
    add_kept(rows, query, size.b, columns.at[b].first, {size.a, lines_left(columns.at[b].first, rows.cols)},
             held[b]);
  }
}

// A block to 64 keys of a key/value head, over the queries of its heads that see them.
__global__ void __launch_bounds__(kTileBlock) key_gradients(Gradient g, HeldColumns columns) {
  const int32_t kv = block() % g.kv_heads, key = block() / g.kv_heads * kGradLines;
  const int keys = lines_left(key, g.n);
  const int32_t end = g.end[key + keys - 1];
  const bool of_values = columns.any(true), of_keys = columns.any(false);
  LargeSums held[kHeld];
  for (int32_t h = kv * g.group(); h < (kv + 1) * g.group(); ++h) {
    for (int32_t query = key; query < end; query += kGradLines) {
      const TileSize size{keys, lines_left(query, end)};
      LargeSums tile = make_scores(g, h, query, key, true, size);
      MOEBIUS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const int32_t t = query + LargeSums::token(i);
        const Stats stats = t < g.n ? g.of(h, t) : Stats{};
        tile[i] = key_weight(g, stats, t, key + LargeSums::row(i), tile[i]);
      }
      if (of_values) {
        keep(tile);
        add_to_held<true>(g, columns, h, query, size, held);
      }
      if (!of_keys) continue;
      const LargeSums slopes = make_weight_gradients(g, h, query, key, true, size);
      MOEBIUS_UNROLL
      for (int i = 0; i < 16; ++i) {
        const int32_t t = query + LargeSums::token(i);
        tile[i] *= g.scale * (slopes[i] - (t < g.n ? g.of(h, t).mean : 0.0f));
      }
      keep(tile);
      add_to_held<false>(g, columns, h, query, size, held);
    }
  }
  MOEBIUS_UNROLL
  for (int b = 0; b < kHeld; ++b) {
    if (b >= columns.count) continue;
    const What what = columns.at[b].what;
    const Rows to = what == What::kOwn ? g.dk : what == What::kValue ? g.dv : g.shared_rows();
    const TileSize size{keys, lines_left(columns.at[b].first, to.columns)};
    add_held(held[b], to, key, kv, columns.at[b].first, size, what != What::kRest);
  }
}

// dshared += what each key/value head gives, in their order.
__global__ void add_shared_heads(Gradient g, float* dshared, int64_t ld) {
  const int64_t at = block_x() * kTileBlock + thread(), columns = g.shared.columns;
  if (at >= g.n * columns) return;
  float sum = 0;
  for (int32_t kv = 0; kv < g.kv_heads; ++kv) sum += g.dshared[kv * g.n * columns + at];
  dshared[at / columns * ld + at % columns] += sum;
}

Grid blocks(const Gradient& g, int32_t heads) {
  const int64_t count = int64_t{g.tiles()} * heads;
  MOEBIUS_CHECK(count <= INT32_MAX, "attention_backward: too many tokens");
  return {count};
}

}  // namespace

void find_stats(Context& context, const Gradient& g) {
  launch(context.compute(), find_softmax, blocks(g, g.heads), kTileBlock, kStage, g);
}

void raise_highest(Context& context, const Gradient& g, float* highest) {
  launch(context.compute(), raise_highest_of_heads, Grid{g.heads}, kTileBlock, 0, g, highest);
}

void pass_to_queries(Context& context, const Gradient& g, const HeldColumns& held) {
  launch(context.compute(), query_gradients, blocks(g, g.heads), kTileBlock, kStage + kKeptBytes, g, held);
}

void pass_to_keys(Context& context, const Gradient& g, const HeldColumns& held) {
  launch(context.compute(), key_gradients, blocks(g, g.kv_heads), kTileBlock, kStage + kKeptBytes, g, held);
}

void add_shared(Context& context, const Gradient& g, float* dshared, int64_t ld) {
  launch(context.compute(), add_shared_heads, Grid{blocks_for(int64_t{g.n} * g.shared.columns, kTileBlock)},
         kTileBlock, 0, g, dshared, ld);
}

}  // namespace moebius::cuda::gradient
