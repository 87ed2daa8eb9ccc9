// The two projections of absorbed MLA: both read kv_b in place, a head's rows at a time.
#include "kernels/cuda/product.h"

namespace moebius::cuda {
namespace {

constexpr int kBlock = 256, kWarps = kBlock / kWarp;

struct Absorb {
  Weight w;
  const float* q;
  float* y;
  int64_t n, nope, head_rows, rope;
  int64_t q_token, q_head, y_token, y_head;  // strides
};

// Tokens of a block: as many as leave a lane 32 sums.
template <Format F>
inline constexpr int kAbsorbTokens = 32 / kColumns<F>;

// A block makes the columns that 32 lanes hold by 16 bytes, of one head for some tokens: eight warps take
// every eighth row, whose parts are added in the order of the warps. Reads a head's `nope` rows once for
// kAbsorbTokens tokens, 512 bytes of a row at a time; that is all that counts.
template <Format F>
__global__ void absorb_rows(Absorb p) {
  constexpr int kWide = kColumns<F>, kTokens = kAbsorbTokens<F>, kSums = kWide * kTokens;
  static_assert(kSums == kWarp);
  const Shared<float> shared = dynamic_shared<float>(0, kWarps * kWarp * (kSums + 1));
  const int64_t h = block_y(), parts = (p.w.cols + kWarp * kWide - 1) / (kWarp * kWide);
  const int64_t first_token = block_x() / parts * kTokens;
  const int part = static_cast<int>(block_x() % parts) * kWarp * kWide, c = part + lane() * kWide;
  float sum[kSums];
  MOEBIUS_UNROLL
  for (int i = 0; i < kSums; ++i) sum[i] = 0;
  for (int64_t i = warp(); i < p.nope; i += kWarps) {
    const int64_t r = h * p.head_rows + i;
    const Bytes16 bytes = load_row16(p.w, p.w.row(r), int64_t{c} / kWide * 16);
    float scale = 1;
    if constexpr (kScaled<F>) scale = c < p.w.cols ? scale_at<F>(p.w, r, c) : 0.0f;
    float q[kTokens];
    MOEBIUS_UNROLL
    for (int t = 0; t < kTokens; ++t)
      q[t] = first_token + t < p.n ? p.q[(first_token + t) * p.q_token + h * p.q_head + i] : 0.0f;
    MOEBIUS_UNROLL
    for (int piece = 0; piece < kWide / 4; ++piece) {
      float value[4];
      unpack4<F>(bytes, piece, value);
      MOEBIUS_UNROLL
      for (int k = 0; k < 4; ++k) {
        MOEBIUS_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          float& to = sum[t * kWide + 4 * piece + k];
          to = fmaf(kScaled<F> ? value[k] * scale : value[k], q[t], to);
        }
      }
    }
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < kSums; ++i) shared[(warp() * kWarp + lane()) * (kSums + 1) + i] = sum[i];
  barrier();
  // The threads take neighbouring columns of one token after the other.
  for (int i = thread(); i < kSums * kWarp; i += kBlock) {
    const int t = i / (kWarp * kWide), column = i % (kWarp * kWide);
    if (first_token + t >= p.n || part + column >= p.w.cols) continue;
    float total = 0;
    for (int w = 0; w < kWarps; ++w)
      total += shared[(w * kWarp + column / kWide) * (kSums + 1) + t * kWide + column % kWide];
    p.y[(first_token + t) * p.y_token + h * p.y_head + part + column] = total;
  }
}

// What q has behind its first `nope` numbers, behind the latent of y: reads and writes it once.
__global__ void copy_rope(Absorb p, int64_t heads) {
  const int64_t at = block_x() * kBlock + thread(), t = at / (heads * p.rope);
  if (t >= p.n) return;
  const int64_t h = at / p.rope % heads, i = at % p.rope;
  p.y[t * p.y_token + h * p.y_head + p.w.cols + i] = p.q[t * p.q_token + h * p.q_head + p.nope + i];
}

}  // namespace

void mla_absorb(Context& context, const MlaAbsorbArgs& args) {
  const int heads = static_cast<int>(args.q.shape[1]);
  Absorb p;
  p.w = weight_of(args.kv_b);
  p.q = args.q.f32(), p.y = args.y.f32();
  p.n = args.q.shape[0], p.nope = args.nope, p.head_rows = args.nope + args.v_dim;
  p.rope = args.q.shape[2] - args.nope;
  p.q_token = args.q.stride[0], p.q_head = args.q.stride[1];
  p.y_token = args.y.stride[0], p.y_head = args.y.stride[1];
  if (p.n == 0 || heads == 0) return;
  if (p.w.cols > 0) {
    with_format(args.kv_b.format, [&]<Format F>() {
      const int64_t blocks = blocks_for(p.w.cols, kWarp * kColumns<F>) * blocks_for(p.n, kAbsorbTokens<F>);
      launch(context.compute(), absorb_rows<F>, Grid{blocks, heads}, kBlock,
             sizeof(float) * kWarps * kWarp * (kWarp + 1), p);
    });
  }
  if (p.rope > 0)
    launch(context.compute(), copy_rope, Grid{blocks_for(p.n * heads * p.rope, kBlock)}, kBlock, 0, p,
           int64_t{heads});
}

void mla_value(Context& context, const MlaValueArgs& args) {
  Product p;
  p.w = weight_of(args.kv_b);
  p.in = inputs_of(args.o.f32(), args.o.stride[0]);
  p.in.wide = p.in.wide && args.o.stride[1] % 4 == 0;
  p.y = args.out.f32(), p.ldy = args.out.stride[0];
  p.n = args.o.shape[0], p.rows = args.v_dim;
  p.head_rows = args.nope + args.v_dim, p.head_first = args.nope;
  p.head_x = args.o.stride[1], p.head_y = args.out.stride[1];
  with_format(args.kv_b.format,
              [&]<Format F>() { launch_product<F, false>(context, p, static_cast<int>(args.o.shape[1])); });
}

}  // namespace moebius::cuda
