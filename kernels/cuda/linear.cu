// y = x w^T (+ bias) (+ y), with the adapter that w may carry.
//
// Few tokens go by rows (product.h). Many go by large tiles (large_tile.h), which for integer formats give
// the same bits; but F32 and BF16 weights that lie well aligned go through Context::gemm: BF16 ones times
// activations split into three BF16 numbers, whose products are exact and whose sums are float32.
#include <algorithm>

#include "kernels/cuda/large_tile.h"
#include "kernels/cuda/pieces.h"
#include "kernels/cuda/product.h"

namespace moebius::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kFew = 32;  // tokens by rows

// mid[t, i] = scale * row i of a . x[t]: reads a and x, a warp to a number; ranks are small.
__global__ void adapter_mid(const float* a, int64_t rank, int64_t cols, float scale, const float* x,
                            int64_t ldx, int64_t count, float* mid) {
  const int64_t at = block_x() * (kBlock / kWarp) + warp();
  if (at >= count) return;
  const float value = scale * warp_dot(a + at % rank * cols, x + at / rank * ldx, cols);
  if (lane() == 0) mid[at] = value;
}

// y = bias (+ y): what the products are then added to.
__global__ void start_rows(const float* bias, int64_t rows, int64_t count, bool accumulate, float* y,
                           int64_t ldy) {
  const int64_t at = block_x() * kBlock + thread();
  if (at >= count) return;
  const int64_t r = at % rows;
  float* to = y + at / rows * ldy + r;
  *to = (accumulate ? *to : 0.0f) + bias[r];
}

__global__ void scale_numbers(float* x, int64_t count, float scale) {
  const int64_t at = block_x() * kBlock + thread();
  if (at < count) x[at] *= scale;
}

struct Rows {  // y += or = products with n tokens
  const float* x;
  int64_t n, ldx;
  float* y;
  int64_t ldy;
};

float* take_floats(Context& context, int64_t count) {
  return static_cast<float*>(context.scratch(count * static_cast<int64_t>(sizeof(float))));
}

// y += scale * b (a x)
void gemm_adapter(Context& context, const Lora& lora, const Rows& rows) {
  const int64_t rank = lora.a.shape[0], count = rows.n * rank;
  float* mid = take_floats(context, count);
  if (!mid) return;
  context.gemm(DType::kF32, rows.n, rank, lora.a.shape[1], rows.x, rows.ldx, lora.a.f32(), lora.a.shape[1],
               mid, rank, false);
  launch(context.compute(), scale_numbers, Grid{blocks_for(count, kBlock)}, kBlock, 0, mid, count,
         lora.scale);
  context.gemm(DType::kF32, rows.n, lora.b.shape[0], rank, mid, rank, lora.b.f32(), rank, rows.y, rows.ldy,
               true);
}

void gemm_bf16x3(Context& context, const Matrix& w, const Rows& rows, bool accumulate) {
  const SplitTokens x = split_tokens(context, rows.x, rows.n, w.cols, rows.ldx);
  if (!x.at) return;
  for (int i = kSplitParts - 1; i >= 0; --i)  // small numbers first
    context.gemm(DType::kBF16, rows.n, w.rows, w.cols, x.part(i), x.ld, w.data, w.cols, rows.y, rows.ldy,
                 accumulate || i < kSplitParts - 1);
}

bool goes_by_gemm(const Matrix& w) {
  return (w.format == Format::kF32 || w.format == Format::kBF16) && w.cols > 0 &&
         aligned16(w.data, w.row_bytes());
}

void linear_gemm(Context& context, const LinearArgs& args) {
  const Matrix& w = args.w;
  const Rows rows{args.x.f32(), args.x.shape[0], args.x.stride[0], args.y.f32(), args.y.stride[0]};
  const bool bias = !args.bias.empty(), accumulate = args.accumulate || bias;
  if (bias) {
    const int64_t count = rows.n * w.rows;
    launch(context.compute(), start_rows, Grid{blocks_for(count, kBlock)}, kBlock, 0,
           static_cast<const float*>(args.bias.f32()), w.rows, count, args.accumulate, rows.y, rows.ldy);
  }
  if (w.format == Format::kBF16)
    gemm_bf16x3(context, w, rows, accumulate);
  else
    context.gemm(DType::kF32, rows.n, w.rows, w.cols, rows.x, rows.ldx, w.data, w.cols, rows.y, rows.ldy,
                 accumulate);
  if (w.adapted()) gemm_adapter(context, *w.lora, rows);
}

// Reads weights once for 64 tokens and tokens once for 64 rows: 32 products a byte or more.
template <Format F>
__global__ void linear_large(Product p) {
  const int64_t first_row = block_x() * kLargeRows, first_token = int64_t{block_y()} * kLargeTokens;
  TokenRange range;
  range.first = first_token;
  range.count = static_cast<int>(p.n - first_token < kLargeTokens ? p.n - first_token : kLargeTokens);
  const LargeSums sums = large_tile_product<F>(p.w, first_row, p.rows, p.in, range);
  MOEBIUS_UNROLL
  for (int i = 0; i < 16; ++i) {
    const int64_t r = first_row + LargeSums::row(i), t = first_token + LargeSums::token(i);
    if (r < p.rows && LargeSums::token(i) < range.count) finish_product(p, 0, r, t, sums[i]);
  }
}

void launch_large(Context& context, Product p) {
  with_format(p.w.format, [&]<Format F>() {
    constexpr int64_t kMostTokens = int64_t{65535} * kLargeTokens;
    MOEBIUS_CHECK(p.n <= kMostTokens, "linear: too many tokens");
    const Grid grid{blocks_for(p.rows, kLargeRows), static_cast<int>(blocks_for(p.n, kLargeTokens))};
    launch(context.compute(), linear_large<F>, grid, kTileBlock, large_tile_bytes<F>(), p);
  });
}

// Enough tokens for the matrix units and enough tiles for the multiprocessors.
bool is_large(Context& context, const Product& p) {
  return p.n > kFew &&
         2 * blocks_for(p.rows, kLargeRows) * blocks_for(p.n, kLargeTokens) >= context.multiprocessors();
}

// scale * (a x) of n tokens, [n, rank]; null when there is no memory for it, which the context knows.
const float* make_mid(Context& context, const Lora& lora, int64_t n, const float* x, int64_t ldx) {
  const int64_t rank = lora.a.shape[0], count = n * rank;
  float* mid = take_floats(context, count);
  if (!mid) return nullptr;
  launch(context.compute(), adapter_mid, Grid{blocks_for(count, kBlock / kWarp)}, kBlock, 0,
         static_cast<const float*>(lora.a.f32()), rank, lora.a.shape[1], lora.scale, x, ldx, count, mid);
  return mid;
}

void linear_tiles(Context& context, const LinearArgs& args) {
  const Matrix& w = args.w;
  Product p;
  p.w = weight_of(w);
  p.n = args.x.shape[0], p.rows = w.rows;
  p.in = inputs_of(args.x.f32(), args.x.stride[0]);
  p.y = args.y.f32(), p.ldy = args.y.stride[0];
  p.bias = args.bias.empty() ? nullptr : args.bias.f32();
  p.accumulate = args.accumulate;
  const bool large = is_large(context, p);
  if (!round_for(context, w.format, p.n, w.cols, p.in)) return;
  if (large && !is_integer(w.format)) {
    p.in.split = split_tokens(context, p.in.x, p.n, w.cols, p.in.ld);
    if (!p.in.split.at) return;
  }
  if (w.adapted()) {
    const float* mid = make_mid(context, *w.lora, p.n, p.in.x, p.in.ld);
    if (!mid) return;
    const auto rank = static_cast<int32_t>(w.lora->a.shape[0]);
    p.adapter = {w.lora->b.f32(), mid, rank, rank};
  }
  if (large) return launch_large(context, p);
  with_format(w.format, [&]<Format F>() { launch_product<F, true>(context, p, 1); });
}

}  // namespace

void linear(Context& context, const LinearArgs& args) {
  const Matrix& w = args.w;
  if (args.x.shape[0] == 0 || w.rows == 0) return;
  const int64_t rank = w.adapted() ? w.lora->a.shape[0] : 0;
  const int64_t token_bytes = prepared_bytes(w.format, w.cols) + rank * static_cast<int64_t>(sizeof(float));
  in_pieces(context, args.x.shape[0], scratch_slack(2), token_bytes, [&](int64_t first, int64_t count) {
    LinearArgs piece = args;
    piece.x = args.x.rows(first, count), piece.y = args.y.rows(first, count);
    if (count > kFew && goes_by_gemm(w))
      linear_gemm(context, piece);
    else
      linear_tiles(context, piece);
  });
}

void add_adapter(Context& context, const AddAdapterArgs& args) {
  const Lora& lora = args.lora;
  Product p;
  p.n = args.x.shape[0], p.rows = args.y.shape[1];
  if (p.n == 0 || p.rows == 0) return;
  const float* mid = make_mid(context, lora, p.n, args.x.f32(), args.x.stride[0]);
  if (!mid) return;
  Matrix b;
  b.rows = p.rows, b.cols = lora.a.shape[0], b.data = lora.b.data;
  p.w = weight_of(b);
  p.in = inputs_of(mid, b.cols);
  p.y = args.y.f32(), p.ldy = args.y.stride[0];
  p.accumulate = true;
  launch_product<Format::kF32, false>(context, p, 1);
}

}  // namespace moebius::cuda
