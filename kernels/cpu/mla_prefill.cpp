// Expanded MLA for many tokens, in waves of kWave positions: the wave's latents become float32 once, every
// head's keys and values are rebuilt from them once for all tokens of the call, then every (token, head)
// takes in the wave's tiles. kv_b is dequantised in pieces of kPiece rows that stay in a core's cache, once
// per wave. Each rebuilt number and each (token, head) is computed in an order that depends on absolute
// positions only.
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
  float* expanded;        // [heads, kWave, nope + rope + v_dim]: key, then value
};

int64_t expanded_width(const MlaPrefillArgs& args) { return args.nope + args.rope + args.v_dim; }

// Rows [begin, end) of a head's part of kv_b, all k_nope or all v, for every position of the wave.
void expand_piece(const MlaPrefillArgs& args, const TileKernels& kernels, const FormatKernels& format,
                  const Wave& wave, int64_t head, int64_t begin, int64_t end, float* weights) {
  const int64_t latent = args.kv_b.cols, width = expanded_width(args);
  const int64_t first_row = head * (args.nope + args.v_dim) + begin;
  format.dequantize_rows(args.kv_b, first_row, first_row + end - begin, weights, latent);
  const float* rows[kPiece];
  for (int64_t r = 0; r < end - begin; ++r) rows[r] = weights + r * latent;
  const int64_t column = begin < args.nope ? begin : begin + args.rope;
  float* out = wave.expanded + head * kWave * width + column;
  kernels.dots(wave.latents, wave.count, rows, end - begin, latent, out, width);
}

void expand_wave(const MlaPrefillArgs& args, const TileKernels& kernels, const Wave& wave, float* weights,
                 HostContext& context) {
  const int64_t heads = args.q.shape[1], latent = args.kv_b.cols, width = expanded_width(args);
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
    for (int64_t j = 0; j < wave.count; ++j)
      std::copy_n(wave.latents[j] + latent, args.rope,
                  wave.expanded + (head * kWave + j) * width + args.nope);
  });
}

void attend_wave(const MlaPrefillArgs& args, const TileKernels& kernels, const Wave& wave, AttendRow* rows,
                 HostContext& context) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], width = expanded_width(args);
  const int64_t token_blocks = ceil_div(n, kTokens);
  parallel_for(context.pool, heads * token_blocks, 1, [&](int64_t unit, int64_t) {
    const int64_t head = unit / token_blocks, token = unit % token_blocks * kTokens;
    const int64_t n_rows = std::min(kTokens, n - token);
    AttendRow* own = rows + head * n + token;
    const int64_t end = std::min(wave.begin + wave.count, own[n_rows - 1].visible);
    const float *keys[kTile], *values[kTile];
    for (int64_t begin = wave.begin; begin < end; begin += kTile) {
      const int64_t count = std::min(kTile, end - begin);
      for (int64_t j = 0; j < count; ++j) {
        keys[j] = wave.expanded + (head * kWave + begin - wave.begin + j) * width;
        values[j] = keys[j] + args.nope + args.rope;
      }
      attend_tile(kernels, own, n_rows, keys, values, begin, count, args.nope + args.rope, args.v_dim,
                  args.scale);
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
  Wave wave{0, 0, scratch.take<const float*>(kWave), nullptr};
  wave.expanded = scratch.take<float>(heads * kWave * expanded_width(args));
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
      tile_rows(kernels, args.cache, wave.begin + begin, end - begin, 0, cached, 0, store + begin * cached,
                wave.latents + begin);
    });
    expand_wave(args, kernels, wave, weights, context);
    attend_wave(args, kernels, wave, rows, context);
  }
  for (int64_t i = 0; i < heads * n; ++i) finish_row(rows[i], args.v_dim);
}

}  // namespace

std::span<const Candidate<MlaPrefillArgs>> host_mla_prefill() {
  static constexpr Candidate<MlaPrefillArgs> kCandidates[] = {
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
