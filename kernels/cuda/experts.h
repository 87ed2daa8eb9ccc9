// The routed experts of one call on the device: their weights, and the slots in use sorted by expert.
//
// The host does not know what the ids are. So all sizes of launches are upper bounds, blocks go round and
// round over work whose amount they find in device memory, and slots that are not in use cost nothing.
#pragma once

#include "kernels/cuda/tile.h"

namespace moebius::cuda {

struct LoraView {
  const float* a = nullptr;  // [rank, cols], null for none
  const float* b = nullptr;  // [rows, rank]
  float scale = 1;
  int32_t rank = 0;
};
LoraView lora_view(const Lora* lora);  // null: none

struct Expert {
  Weight gate, up, down;
  __device__ bool elsewhere() const { return gate.cols == 0; }
};
struct ExpertAdapters {
  LoraView gate, up, down;
};

// What the host can tell from the weights alone.
struct ExpertTable {
  const Expert* experts = nullptr;           // device; null: no expert is here
  const ExpertAdapters* adapters = nullptr;  // device; null: none has any
  int64_t here = 0, widest = 0;              // experts, and the most rows of their gates
  int32_t rank = 0;                          // the largest
  int up_format = -1, down_format = -1;      // a Format that all have, or kFormats for several
  bool up_formats[kFormats] = {};            // whether some gate or up has it
  bool down_formats[kFormats] = {};
  bool down_integer = false, down_float = false;
};
// Uploads the table. Aborts when an expert does not fit `hidden`.
ExpertTable upload_experts(Context& context, const ExpertWeights* experts, int64_t n_experts, int64_t hidden);

// Slots of one expert, at most a tile's worth: number `index` of the expert's `of` tiles.
struct SlotTile {
  int32_t expert = 0, first = 0, count = 0;
  int32_t index = 0, of = 1;
};
// The slots in use, by expert, then by token and place: number i is slot order[i] of the call, tokens * k.
struct SlotOrder {
  const int32_t* ids = nullptr;
  int64_t ids_ld = 0;
  int32_t k = 0;
  // Null for one token: its slots are tiles of one, in their own order.
  const SlotTile* tiles = nullptr;
  const int32_t* tile_count = nullptr;
  const int32_t* order = nullptr;
  // [n_experts]: where an expert's slots begin in the order, and how many they are; null for one token.
  const int32_t* firsts = nullptr;
  const int32_t* counts = nullptr;
  int64_t most_tiles = 0;  // 0: no memory

  __device__ int64_t count() const { return tiles ? *tile_count : k; }
  __device__ SlotTile at(int64_t i) const {
    return tiles ? tiles[i] : SlotTile{ids[i], static_cast<int32_t>(i), 1, 0, 1};
  }
  // Item i of all pairs of a tile and one of `blocks` blocks of rows: an expert's tiles take a block of rows
  // one after the other, while it is in the cache.
  __device__ SlotTile item(int64_t i, int64_t blocks, int64_t* block) const {
    const SlotTile first = at(i / blocks);
    const int64_t within = first.index * blocks + i % blocks;
    *block = within / first.of;
    return first.of == 1 ? first : at(i / blocks - first.index + within % first.of);
  }
  __device__ int32_t slot(int64_t i) const { return order ? order[i] : static_cast<int32_t>(i); }
};
// Of scratch that the table and the sorting take, at most: for each expert and for each slot.
inline constexpr int64_t kBytesOfExpert =
    sizeof(Expert) + sizeof(ExpertAdapters) + sizeof(SlotTile) + 2 * sizeof(int32_t);
inline constexpr int64_t kBytesOfSlot = sizeof(SlotTile) + sizeof(int32_t);

// tile: the most slots in a tile, for more than one token.
SlotOrder sort_slots(Context& context, const Tensor& ids, const ExpertTable& table, int64_t n_experts,
                     int tile);
// The same with one token's slots sorted, too.
SlotOrder sort_all_slots(Context& context, const Tensor& ids, const ExpertTable& table, int64_t n_experts,
                         int tile);

}  // namespace moebius::cuda
