// Expanded MLA for many tokens, in waves of kWave positions: the wave's latents become float32 once, every
// head's keys and values are rebuilt from them once for all tokens of the call, then every (token, head)
// takes in the wave's tiles. Keys, and the latents that they come from, stand as columns, so that products
// with them need no sums across a register. kv_b is dequantised in pieces of kPiece rows that stay in a
// core's cache, once per wave. Each rebuilt number and each (token, head) is computed in an order that
// depends on absolute positions only.
#include <algorithm>

#include "kernels/cpu/cache_tile.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kWave = 4 * kTile;
constexpr int64_t kPiece = 32;
constexpr int64_t kTokens = 32;  // of one head that walk a tile together

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Wave {
  int64_t begin, count;   // positions
  const float** latents;  // [count] rows [latent | rope]
  float* columns;         // the same by tiles: [tile, latent + rope, kTile]
  float* keys;            // [heads, tile, nope + rope, kTile]
  float* values;          // [heads, kWave, v_dim]

  int64_t tile_count(int64_t tile) const { return std::min(kTile, count - tile * kTile); }
};

// The rows of a tile as columns, zeros behind the last.
void turn_tile(const MlaPrefillArgs& args, const Wave& wave, int64_t tile) {
  const int64_t cached = args.kv_b.cols + args.rope, count = wave.tile_count(tile);
  float* columns = wave.columns + tile * cached * kTile;
  constexpr int64_t kBlock = 16;  // a cache line of numbers
  for (int64_t first = 0; first < cached; first += kBlock) {
    const int64_t last = std::min(cached, first + kBlock);
    for (int64_t j = 0; j < kTile; ++j) {
      const float* row = j < count ? wave.latents[tile * kTile + j] : nullptr;
      for (int64_t c = first; c < last; ++c) columns[c * kTile + j] = row ? row[c] : 0.0f;
    }
  }
}

float* key_tile(const MlaPrefillArgs& args, const Wave& wave, int64_t head, int64_t tile) {
  return wave.keys + (head * (kWave / kTile) + tile) * (args.nope + args.rope) * kTile;
}

// Rows [begin, end) of a head's part of kv_b, all k_nope or all v, for every position of the wave.
void expand_piece(const MlaPrefillArgs& args, const TileKernels& kernels, const FormatKernels& format,
                  const Wave& wave, int64_t head, int64_t begin, int64_t end, float* weights) {
  const int64_t latent = args.kv_b.cols;
  const int64_t first_row = head * (args.nope + args.v_dim) + begin;
  format.dequantize_rows(args.kv_b, first_row, first_row + end - begin, weights, latent);
  const float* rows[kPiece];
  for (int64_t r = 0; r < end - begin; ++r) rows[r] = weights + r * latent;
  if (begin >= args.nope) {
    float* values = wave.values + head * kWave * args.v_dim + begin - args.nope;
    ReadAhead nothing;
    return kernels.dots(wave.latents, wave.count, rows, end - begin, latent, values, args.v_dim, nothing);
  }
  for (int64_t tile = 0; tile * kTile < wave.count; ++tile)
    kernels.products(rows, end - begin, wave.columns + tile * (latent + args.rope) * kTile,
                     wave.tile_count(tile), latent, key_tile(args, wave, head, tile) + begin * kTile, kTile);
}

void expand_wave(const MlaPrefillArgs& args, const TileKernels& kernels, const Wave& wave, float* weights,
                 HostContext& context) {
  const int64_t heads = args.q.shape[1], latent = args.kv_b.cols;
  const int64_t key_pieces = ceil_div(args.nope, kPiece), value_pieces = ceil_div(args.v_dim, kPiece);
  const int64_t pieces = key_pieces + value_pieces;
  const FormatKernels& format = context.kernels(args.kv_b.format);
  for_each_unit(context, heads * pieces, [&](int64_t unit, int64_t worker) {
    const int64_t head = unit / pieces, piece = unit % pieces;
    float* own = weights + worker * kPiece * latent;
    if (piece < key_pieces) {
      const int64_t begin = piece * kPiece;
      expand_piece(args, kernels, format, wave, head, begin, std::min(begin + kPiece, args.nope), own);
    } else {
      const int64_t begin = args.nope + (piece - key_pieces) * kPiece;
      expand_piece(args, kernels, format, wave, head, begin, std::min(begin + kPiece, args.nope + args.v_dim),
                   own);
    }
    if (piece > 0) return;
    for (int64_t tile = 0; tile * kTile < wave.count; ++tile)
      std::copy_n(wave.columns + (tile * (latent + args.rope) + latent) * kTile, args.rope * kTile,
                  key_tile(args, wave, head, tile) + args.nope * kTile);
  });
}

void attend_wave(const MlaPrefillArgs& args, const TileKernels& kernels, const Wave& wave, AttendRow* rows,
                 HostContext& context) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], token_blocks = ceil_div(n, kTokens);
  parallel_for(context.pool, heads * token_blocks, 1, [&](int64_t unit, int64_t) {
    const int64_t head = unit / token_blocks, token = unit % token_blocks * kTokens;
    const int64_t n_rows = std::min(kTokens, n - token);
    AttendRow* own = rows + head * n + token;
    const int64_t seen = std::min(wave.count, own[n_rows - 1].visible - wave.begin);
    const float* values[kTile];
    for (int64_t tile = 0; tile * kTile < seen; ++tile) {
      const int64_t count = std::min(kTile, seen - tile * kTile);
      for (int64_t j = 0; j < count; ++j)
        values[j] = wave.values + (head * kWave + tile * kTile + j) * args.v_dim;
      attend_columns(kernels, own, n_rows, key_tile(args, wave, head, tile), values,
                     wave.begin + tile * kTile, count, args.nope + args.rope, args.v_dim, args.scale);
    }
  });
}

void mla_prefill_tiled(const MlaPrefillArgs& args, const TileKernels& kernels, HostContext& context) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], latent = args.kv_b.cols;
  if (args.q.numel() == 0) return;
  const int64_t cached = latent + args.rope, positions = args.first + n;
  Scratch& scratch = context.scratch;
  AttendRow* rows = scratch.take<AttendRow>(heads * n);  // [heads, n]
  float* store = scratch.take<float>(kWave * cached);
  float* weights = scratch.take<float>(context.threads * kPiece * latent);
  Wave wave{0, 0, scratch.take<const float*>(kWave), nullptr, nullptr, nullptr};
  wave.columns = scratch.take<float>(kWave * cached);
  wave.keys = scratch.take<float>(heads * kWave * (args.nope + args.rope));
  wave.values = scratch.take<float>(heads * kWave * args.v_dim);
  for (int64_t i = 0; i < heads * n; ++i) {
    const int64_t h = i / n, t = i % n;
    rows[i].q = args.q.f32() + t * args.q.stride[0] + h * args.q.stride[1];
    rows[i].acc = args.out.f32() + t * args.out.stride[0] + h * args.out.stride[1];
    rows[i].visible = args.first + t + 1;
    start_row(rows[i], args.v_dim);
  }
  for (; wave.begin < positions; wave.begin += kWave) {
    wave.count = std::min(kWave, positions - wave.begin);
    parallel_for(context.pool, wave.count, kTile, [&](int64_t begin, int64_t end) {
      wide_rows(kernels, args.cache, wave.begin + begin, end - begin, 0, cached, store + begin * cached,
                wave.latents + begin);
      turn_tile(args, wave, begin / kTile);
    });
    expand_wave(args, kernels, wave, weights, context);
    attend_wave(args, kernels, wave, rows, context);
  }
  for (int64_t i = 0; i < heads * n; ++i) finish_row(rows[i], args.v_dim);
}

}  // namespace

std::span<const Candidate<MlaPrefillArgs>> host_mla_prefill() {
  static constexpr Candidate<MlaPrefillArgs> kCandidates[] = {
      {"mla_prefill_f32_avx512", needs_avx512<MlaPrefillArgs>,
       [](const MlaPrefillArgs& args, HostContext& context) {
         mla_prefill_tiled(args, kTileAvx512, context);
       }},
      {"mla_prefill_f32_avx2", needs_avx2<MlaPrefillArgs>,
       [](const MlaPrefillArgs& args, HostContext& context) { mla_prefill_tiled(args, kTileAvx2, context); }},
      {"mla_prefill_f32_scalar", declines_nothing<MlaPrefillArgs>,
       [](const MlaPrefillArgs& args, HostContext& context) {
         mla_prefill_tiled(args, kTileScalar, context);
       }},
      reference_candidate<MlaPrefillArgs, ref::mla_prefill>("mla_prefill_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
