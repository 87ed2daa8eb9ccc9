// The MoE feed-forward: for each slot in use down(silu(gate x) * up x), by tiles of slots of one expert.
//
// Two kernels on one list of tiles. The first makes 32 rows of gate and of up for a tile and from them 32
// numbers of h, a whole group of activations, which it rounds to int8 itself where down wants it so; the
// second makes down's rows and writes them to their slots. Each tile's weights move once for at most
// eight slots; a lone token's tiles are its slots, and then the weights of the chosen experts are all that
// counts. A block takes 32 rows of an expert at a time, so that a handful of experts fills the device.
#include <algorithm>

#include "kernels/cuda/expert_ffn.h"
#include "kernels/cuda/large_tile.h"
#include "kernels/cuda/pieces.h"

namespace moebius::cuda {
namespace {

constexpr int kRows = 32;      // of a block
constexpr int kSlots = 8;      // of a tile
constexpr int kBlocks = 8;     // for each multiprocessor, at most
constexpr int64_t kMany = 16;  // slots to an expert, about, from which on large tiles pay
static_assert(kRows == kWarp && kRows == kActivationGroup);

template <int kFormat, int T>
inline constexpr int kFfnFloats = kTileFloats<static_cast<Format>(kFormat), true, kRows, T>;
template <int T>
inline constexpr int kFfnFloats<kFormats, T> = kTileFloats<Format::kInt8, true, kRows, T>;  // the most

// Experts of several formats are rare: theirs share one copy of the code.
template <int T>
__device__ MOEBIUS_NOT_INLINED float mixed_product(const Weight& w, const TileOf<T>& tile, const Inputs& in,
                                                   const Shared<float>& shared) {
  switch (w.format) {
    case Format::kF32:
      return tile_product<Format::kF32, true, kRows, T>(w, tile, in, shared);
    case Format::kBF16:
      return tile_product<Format::kBF16, true, kRows, T>(w, tile, in, shared);
    case Format::kF16:
      return tile_product<Format::kF16, true, kRows, T>(w, tile, in, shared);
    case Format::kFp8Block:
      return tile_product<Format::kFp8Block, true, kRows, T>(w, tile, in, shared);
    case Format::kInt8:
      return tile_product<Format::kInt8, true, kRows, T>(w, tile, in, shared);
    default:
      return tile_product<Format::kInt4, true, kRows, T>(w, tile, in, shared);
  }
}

// kFormat: a Format, or kFormats for one that is looked up.
template <int kFormat, int T>
__device__ float ffn_product(const Weight& w, const TileOf<T>& tile, const Inputs& in,
                             const Shared<float>& shared) {
  if constexpr (kFormat < kFormats)
    return tile_product<static_cast<Format>(kFormat), true, kRows, T>(w, tile, in, shared);
  else
    return mixed_product(w, tile, in, shared);
}

template <int kFormat, int T>
__global__ void expert_up(Ffn f) {
  const Shared<float> shared = dynamic_shared<float>(0, kFfnFloats<kFormat, T>);
  const int64_t row_blocks = (f.widest + kRows - 1) / kRows, items = f.slots.count() * row_blocks;
  for (int64_t item = block_x(); item < items; item += blocks_x()) {
    int64_t block;
    const SlotTile slots = f.slots.item(item, row_blocks, &block);
    const int64_t first_row = block * kRows;
    if (slots.expert < 0) continue;
    const Expert& e = f.experts[slots.expert];
    const int64_t rows = e.gate.rows;
    if (e.elsewhere() || first_row >= rows) continue;
    TileOf<T> tile;
    tile.first = first_row, tile.end = rows, tile.count = slots.count;
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t)
      tile.token[t] = t < tile.count ? f.slots.slot(slots.first + t) / f.slots.k : 0;
    float gate = 0, up = 0;
#pragma unroll 1  // the code of a product once: the compiler takes minutes for it
    for (int part = 0; part < 2; ++part) {
      const Weight w = *(part == 0 ? &e.gate : &e.up);
      up = ffn_product<kFormat, T>(w, tile, f.x, shared);
      if (part == 0) gate = up;
    }
    if (warp() >= tile.count) continue;  // whole warps: a token to a warp, a row to a lane
    const int64_t r = first_row + lane(), at = slots.first + warp();
    float h = 0;
    if (r < rows) {
      h = activate(f, slots.expert, r, at, gate, up);
      if (f.h_out) f.h_out[at * f.h.ld + r] = h;
    }
    const Format down = e.down.format;
    if (down != Format::kInt8 && down != Format::kInt4) continue;
    const Order order = down == Format::kInt4 ? Order::kEvenOdd : Order::kPlain;
    const int64_t group = at * f.h.plain.ld + first_row / kActivationGroup;
    round_group(h, order, f.h.plain.q + group * kActivationGroup, f.h.plain.scale + group,
                f.h.plain.sum + group);
  }
}

template <int kFormat, int T>
__global__ void expert_down(Ffn f) {
  const Shared<float> shared = dynamic_shared<float>(0, kFfnFloats<kFormat, T>);
  const int64_t row_blocks = (f.hidden + kRows - 1) / kRows, items = f.slots.count() * row_blocks;
  for (int64_t item = block_x(); item < items; item += blocks_x()) {
    int64_t block;
    const SlotTile slots = f.slots.item(item, row_blocks, &block);
    if (slots.expert < 0 || f.experts[slots.expert].elsewhere()) continue;
    const Weight w = f.experts[slots.expert].down;
    TileOf<T> tile;
    tile.first = block * kRows, tile.end = w.rows, tile.count = slots.count;
    MOEBIUS_UNROLL
    for (int t = 0; t < T; ++t) tile.token[t] = t < tile.count ? slots.first + t : slots.first;
    const float value = ffn_product<kFormat, T>(w, tile, f.h, shared);
    const int64_t r = tile.first + lane(), at = slots.first + warp();
    if (warp() < tile.count && r < w.rows) finish_down(f, slots.expert, r, at, value);
  }
}

__device__ void adapter_mids(const LoraView& lora, const Weight& w, const SlotTile& slots, const Inputs& in,
                             const SlotOrder* token_of, float* mid, int32_t ld) {
  for (int32_t i = warp(); lora.a && i < slots.count * lora.rank; i += kTileWarps) {
    const int64_t at = slots.first + i / lora.rank, row = i % lora.rank;
    const int64_t token = token_of ? token_of->slot(at) / token_of->k : at;
    const float value = lora.scale * warp_dot(lora.a + row * w.cols, in.x + token * in.ld, w.cols);
    if (lane() == 0) mid[at * ld + row] = value;
  }
}

// scale * a x of every slot's adapters, of gate and up or of down: a warp to a number.
__global__ void expert_mids(Ffn f, bool down) {
  for (int64_t item = block_x(); item < f.slots.count(); item += blocks_x()) {
    const SlotTile slots = f.slots.at(item);
    if (slots.expert < 0 || f.experts[slots.expert].elsewhere()) continue;
    const Expert& e = f.experts[slots.expert];
    const ExpertAdapters& adapters = f.adapters[slots.expert];
    if (down) {
      adapter_mids(adapters.down, e.down, slots, f.h, nullptr, f.mid_down, f.rank);
    } else {
      adapter_mids(adapters.gate, e.gate, slots, f.x, &f.slots, f.mid_gate, f.rank);
      adapter_mids(adapters.up, e.up, slots, f.x, &f.slots, f.mid_up, f.rank);
    }
  }
}

float* take_floats(Context& context, int64_t count) {
  return static_cast<float*>(
      context.scratch(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(float))));
}

void run_mids(Context& context, const Ffn& f, bool down) {
  if (f.rank > 0)
    launch(context.compute(), expert_mids, Grid{ffn_blocks(context, f, 1, 1)}, kTileBlock, 0, f, down);
}

int64_t width_of_h(const ExpertTable& table) {
  return blocks_for(table.widest, kActivationGroup) * kActivationGroup;
}

// Memory for h and what adapters make, in the forms that are wanted. False: none left.
bool take_h(Context& context, const ExpertTable& table, int64_t slots, bool large, Ffn& f) {
  const int64_t ld = width_of_h(table);
  if (large || table.down_float || table.rank > 0) {
    f.h_out = take_floats(context, slots * ld);
    if (!f.h_out) return false;
  }
  f.h = inputs_of(f.h_out, ld);
  if (table.down_integer && !large) {
    f.h.plain = f.h.even_odd = take_tokens(context, slots, table.widest);
    if (!f.h.plain.q) return false;
  }
  if (table.rank == 0) return true;
  const int64_t numbers = slots * table.rank;
  f.rank = table.rank;
  f.mid_gate = take_floats(context, 3 * numbers);
  f.mid_up = f.mid_gate + numbers, f.mid_down = f.mid_up + numbers;
  return f.mid_gate != nullptr;
}

// Tokens as products with matrices of a format want them. False: no memory.
bool prepare(Context& context, Format format, bool large, int64_t n, int64_t cols, Inputs& in) {
  if (is_integer(format)) return round_for(context, format, n, cols, in);
  if (!large) return true;
  in.split = split_tokens(context, in.x, n, cols, in.ld);
  return in.split.at != nullptr;
}

template <int kFormat, int T>
void launch_up(Context& context, const Ffn& f, int64_t blocks) {
  launch(context.compute(), expert_up<kFormat, T>, Grid{blocks}, kTileBlock,
         sizeof(float) * kFfnFloats<kFormat, T>, f);
}
template <int kFormat, int T>
void launch_down(Context& context, const Ffn& f, int64_t blocks) {
  launch(context.compute(), expert_down<kFormat, T>, Grid{blocks}, kTileBlock,
         sizeof(float) * kFfnFloats<kFormat, T>, f);
}

// The kernel of a format, or of several.
#define MOEBIUS_OF_FORMAT(call, format, tokens)                 \
  switch (format) {                                             \
    case static_cast<int>(Format::kF32):                        \
      return call<static_cast<int>(Format::kF32), tokens>;      \
    case static_cast<int>(Format::kBF16):                       \
      return call<static_cast<int>(Format::kBF16), tokens>;     \
    case static_cast<int>(Format::kF16):                        \
      return call<static_cast<int>(Format::kF16), tokens>;      \
    case static_cast<int>(Format::kFp8Block):                   \
      return call<static_cast<int>(Format::kFp8Block), tokens>; \
    case static_cast<int>(Format::kInt8):                       \
      return call<static_cast<int>(Format::kInt8), tokens>;     \
    case static_cast<int>(Format::kInt4):                       \
      return call<static_cast<int>(Format::kInt4), tokens>;     \
    default:                                                    \
      return call<kFormats, tokens>;                            \
  }
using Launch = void (*)(Context&, const Ffn&, int64_t);
template <int T>
Launch up_launch(int format) {
  MOEBIUS_OF_FORMAT(launch_up, format, T)
}
template <int T>
Launch down_launch(int format) {
  MOEBIUS_OF_FORMAT(launch_down, format, T)
}
#undef MOEBIUS_OF_FORMAT

void run_small(Context& context, const ExpertTable& table, bool one, const Ffn& f) {
  (one ? up_launch<1>(table.up_format) : up_launch<kSlots>(table.up_format))(
      context, f, ffn_blocks(context, f, f.widest, kRows));
  run_mids(context, f, true);
  (one ? down_launch<1>(table.down_format) : down_launch<kSlots>(table.down_format))(
      context, f, ffn_blocks(context, f, f.hidden, kRows));
}

void run_large(Context& context, const ExpertTable& table, int64_t slots, Ffn& f) {
  const auto up = static_cast<Format>(table.up_format), down = static_cast<Format>(table.down_format);
  expert_up_large(context, up, f);
  run_mids(context, f, true);
  if (prepare(context, down, true, slots, f.h.ld, f.h)) expert_down_large(context, down, f);
}

// Of scratch, for a token with k slots, at most.
int64_t token_bytes(const ExpertTable& table, int64_t k, int64_t hidden) {
  const int64_t ld = width_of_h(table);
  int64_t token = 0, slot = 4 * (ld + 3 * table.rank) + kBytesOfSlot;
  for (int i = 0; i < kFormats; ++i) {
    if (table.up_formats[i]) token += prepared_bytes(static_cast<Format>(i), hidden);
    if (table.down_formats[i]) slot += prepared_bytes(static_cast<Format>(i), ld);
  }
  return token + k * slot;
}

void run_piece(Context& context, const ExpertFfnArgs& args, const ExpertTable& table) {
  const int64_t n = args.x.shape[0], hidden = args.x.shape[1], slots = n * args.ids.shape[1];
  const bool large =
      n > 1 && slots >= kMany * table.here && table.up_format < kFormats && table.down_format < kFormats;
  Ffn f;
  f.experts = table.experts, f.adapters = table.adapters;
  f.widest = table.widest, f.hidden = hidden;
  f.y = args.slots.f32(), f.y_token = args.slots.stride[0], f.y_slot = args.slots.stride[1];
  f.x = inputs_of(args.x.f32(), args.x.stride[0]);
  f.slots = sort_slots(context, args.ids, table, args.n_experts, large ? kLargeTokens : kSlots);
  if (f.slots.most_tiles == 0 || !take_h(context, table, slots, large, f)) return;
  for (int format = 0; format < kFormats; ++format)
    if (table.up_formats[format] && !prepare(context, static_cast<Format>(format), large, n, hidden, f.x))
      return;
  run_mids(context, f, false);
  if (large)
    run_large(context, table, slots, f);
  else
    run_small(context, table, n == 1, f);
}

}  // namespace

int64_t ffn_blocks(Context& context, const Ffn& f, int64_t rows, int64_t rows_of_block) {
  const int64_t most = int64_t{kBlocks} * context.multiprocessors();
  return std::max<int64_t>(1, std::min(most, f.slots.most_tiles * blocks_for(rows, rows_of_block)));
}

void expert_ffn(Context& context, const ExpertFfnArgs& args) {
  const int64_t n = args.x.shape[0], hidden = args.x.shape[1], k = args.ids.shape[1];
  if (n * k == 0 || hidden == 0 || args.n_experts == 0) return;
  MOEBIUS_CHECK(n * k <= INT32_MAX, args.ids.describe());
  ExpertTable table = upload_experts(context, args.experts, args.n_experts, hidden);
  if (!table.experts) return;
  const int64_t fixed = scratch_slack(12) + args.n_experts * kBytesOfExpert;
  in_pieces(context, n, fixed, token_bytes(table, k, hidden), [&](int64_t first, int64_t count) {
    ExpertFfnArgs piece = args;
    for (Tensor* t : {&piece.x, &piece.ids, &piece.slots}) *t = t->rows(first, count);
    if (first > 0) table = upload_experts(context, args.experts, args.n_experts, hidden);
    if (table.experts) run_piece(context, piece, table);
  });
}

}  // namespace moebius::cuda
