#include "kernels/cuda/experts.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "kernels/shape_rules.h"

namespace moebius::cuda {
namespace {

constexpr int kBlock = 256, kWarps = kBlock / kWarp;

LoraView view_of(const Matrix& m) { return lora_view(m.adapted() ? m.lora : nullptr); }

void note_format(int& common, Format format) {
  const int here = static_cast<int>(format);
  common = common < 0 || common == here ? here : kFormats;
}

void note(ExpertTable& table, const ExpertWeights& e) {
  ++table.here;
  table.widest = std::max(table.widest, e.gate.rows);
  for (const Matrix* m : {&e.gate, &e.up}) {
    note_format(table.up_format, m->format);
    table.up_formats[static_cast<int>(m->format)] = true;
  }
  note_format(table.down_format, e.down.format);
  table.down_formats[static_cast<int>(e.down.format)] = true;
  (is_integer(e.down.format) ? table.down_integer : table.down_float) = true;
  for (const Matrix* m : {&e.gate, &e.up, &e.down})
    if (m->adapted()) table.rank = std::max(table.rank, static_cast<int32_t>(m->lora->a.shape[0]));
}

// Over the threads of a block; partial: kWarps elements, free on both sides.
__device__ int32_t block_total(int32_t value, const Shared<int32_t>& partial) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  barrier();
  if (lane() == 0) partial[warp()] = value;
  barrier();
  int32_t total = 0;
  for (int w = 0; w < kWarps; ++w) total += partial[w];
  barrier();
  return total;
}

// How many of the threads up to this one have `value` 1, in the block; total: of all.
__device__ int32_t block_rank(int32_t value, const Shared<int32_t>& partial, int32_t* total) {
  int32_t before = value;
  for (int step = 1; step < kWarp; step *= 2) {
    const int32_t other = shuffle(before, lane() < step ? lane() : lane() - step);
    if (lane() >= step) before += other;
  }
  if (lane() == kWarp - 1) partial[warp()] = before;
  barrier();
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    const int32_t here = partial[w];
    if (w < warp()) before += here;
    *total += here;
  }
  barrier();
  return before;
}

// A block counts the slots of its expert: every block reads all ids, from the cache.
__global__ void count_slots(const int32_t* ids, int64_t ld, int64_t k, int64_t slots, const Expert* experts,
                            int32_t* counts) {
  MOEBIUS_SHARED(int32_t, partial, kWarps);
  const int32_t e = static_cast<int32_t>(block_x());
  int32_t count = 0;
  if (!experts[e].elsewhere())
    for (int64_t i = thread(); i < slots; i += kBlock) count += ids[i / k * ld + i % k] == e;
  count = block_total(count, partial);
  if (thread() == 0) counts[e] = count;
}

// A block writes the tiles of its expert and its slots in order.
__global__ void place_slots(const int32_t* ids, int64_t ld, int64_t k, int64_t slots, const int32_t* counts,
                            int tile, SlotTile* tiles, int32_t* tile_count, int32_t* order, int32_t* firsts) {
  MOEBIUS_SHARED(int32_t, partial, kWarps);
  const int32_t e = static_cast<int32_t>(block_x());
  int32_t before = 0, tiles_before = 0;
  for (int32_t other = thread(); other < e; other += kBlock)
    before += counts[other], tiles_before += (counts[other] + tile - 1) / tile;
  before = block_total(before, partial), tiles_before = block_total(tiles_before, partial);
  const int32_t count = counts[e], mine = (count + tile - 1) / tile;
  if (thread() == 0) firsts[e] = before;
  if (thread() == 0 && e == blocks_x() - 1) *tile_count = tiles_before + mine;
  if (count == 0) return;
  for (int32_t i = thread(); i < mine; i += kBlock)
    tiles[tiles_before + i] = {e, before + i * tile, count - i * tile < tile ? count - i * tile : tile, i,
                               mine};
  for (int64_t first = 0; first < slots; first += kBlock) {
    const int64_t i = first + thread();
    const int32_t match = i < slots && ids[i / k * ld + i % k] == e;
    int32_t found;
    const int32_t rank = block_rank(match, partial, &found);
    if (match) order[before + rank - 1] = static_cast<int32_t>(i);
    before += found;
  }
}

}  // namespace

LoraView lora_view(const Lora* lora) {
  LoraView view;
  if (!lora) return view;
  view.a = lora->a.f32(), view.b = lora->b.f32();
  view.scale = lora->scale, view.rank = static_cast<int32_t>(lora->a.shape[0]);
  return view;
}

ExpertTable upload_experts(Context& context, const ExpertWeights* experts, int64_t n_experts,
                           int64_t hidden) {
  ExpertTable table;
  std::vector<Expert> weights(static_cast<size_t>(n_experts));
  for (int64_t i = 0; i < n_experts; ++i) {
    const ExpertWeights& e = experts[i];
    if (e.elsewhere()) continue;
    MOEBIUS_CHECK(is_adaptable(e.gate, -1, hidden) && is_adaptable(e.up, e.gate.rows, hidden) &&
                      is_adaptable(e.down, hidden, e.gate.rows),
                  fmt::format("expert_ffn: expert {} gate {}, up {}, down {}, hidden {}", i,
                              e.gate.describe(), e.up.describe(), e.down.describe(), hidden));
    note(table, e);
    weights[static_cast<size_t>(i)] = {weight_of(e.gate), weight_of(e.up), weight_of(e.down)};
  }
  if (table.up_format < 0) return table;
  table.experts = context.upload(weights.data(), n_experts);
  if (table.rank == 0) return table;
  std::vector<ExpertAdapters> adapters(static_cast<size_t>(n_experts));
  for (int64_t i = 0; i < n_experts; ++i)
    adapters[static_cast<size_t>(i)] = {view_of(experts[i].gate), view_of(experts[i].up),
                                        view_of(experts[i].down)};
  table.adapters = context.upload(adapters.data(), n_experts);
  return table;
}

SlotOrder sort_all_slots(Context& context, const Tensor& ids, const ExpertTable& table, int64_t n_experts,
                         int tile) {
  SlotOrder sorted;
  const int64_t k = ids.shape[1], slots = ids.shape[0] * k;
  sorted.ids = ids.i32(), sorted.ids_ld = ids.stride[0], sorted.k = static_cast<int32_t>(k);
  const int64_t most = std::min(slots, slots / tile + n_experts);
  auto* tiles = static_cast<SlotTile*>(context.scratch(most * static_cast<int64_t>(sizeof(SlotTile))));
  auto* numbers = static_cast<int32_t*>(
      context.scratch((slots + 2 * n_experts + 1) * static_cast<int64_t>(sizeof(int32_t))));
  if (!tiles || !numbers) return sorted;
  int32_t *order = numbers, *counts = order + slots, *firsts = counts + n_experts;
  int32_t* tile_count = firsts + n_experts;
  launch(context.compute(), count_slots, Grid{n_experts}, kBlock, 0, sorted.ids, sorted.ids_ld, k, slots,
         table.experts, counts);
  launch(context.compute(), place_slots, Grid{n_experts}, kBlock, 0, sorted.ids, sorted.ids_ld, k, slots,
         static_cast<const int32_t*>(counts), tile, tiles, tile_count, order, firsts);
  sorted.tiles = tiles, sorted.tile_count = tile_count, sorted.order = order;
  sorted.firsts = firsts, sorted.counts = counts;
  sorted.most_tiles = most;
  return sorted;
}

SlotOrder sort_slots(Context& context, const Tensor& ids, const ExpertTable& table, int64_t n_experts,
                     int tile) {
  if (ids.shape[0] > 1) return sort_all_slots(context, ids, table, n_experts, tile);
  SlotOrder sorted;
  sorted.ids = ids.i32(), sorted.ids_ld = ids.stride[0], sorted.k = static_cast<int32_t>(ids.shape[1]);
  sorted.most_tiles = ids.shape[1];
  return sorted;
}

}  // namespace moebius::cuda
