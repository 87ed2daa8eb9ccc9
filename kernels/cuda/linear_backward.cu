// dx += dy w from the frozen weights as they lie, and gradients of weights, bias and adapter: all by tiles of
// 64 by 64 numbers on the matrix units (grad_tile.h).
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/float_product.h"

namespace moebius::cuda {
namespace {

struct InputGradient {
  FloatView dy;
  Weight w;
  FloatView dmid, a;  // of the adapter; dmid.at null for none
  float scale = 1;
  FloatProduct out;  // c, and how it is added to
};

// Reads weights once for 64 tokens and dy once for 64 columns: neighbouring blocks take the same columns.
template <Format F>
MOEBIUS_PRODUCT_KERNEL input_gradient(InputGradient g, Parts parts) {
  const int32_t token_tiles = (g.out.rows + kGradLines - 1) / kGradLines;
  const int32_t row = static_cast<int32_t>(block_x() % token_tiles) * kGradLines;
  const int32_t column = static_cast<int32_t>(block_x() / token_tiles) * kGradLines;
  const TileSize size{lines_left(row, g.out.rows), lines_left(column, g.out.cols)};
  const int32_t begin = block_y() * parts.depth;
  const int32_t end = g.out.k_end - begin > parts.depth ? begin + parts.depth : g.out.k_end;
  LargeSums sums;
  {
    Side<FloatView, Lie::kAlong> dy{g.dy, row};
    Side<WeightView<F>, Lie::kAcross> w{{g.w}, column};
    add_product(dy, w, begin, end, size, 0, sums);
  }
  if (g.dmid.at && block_y() == 0) {
    Side<FloatView, Lie::kAlong> dmid{g.dmid, row};
    Side<FloatView, Lie::kAcross> a{g.a, column};
    LargeSums more;
    add_product(dmid, a, 0, g.dmid.cols, size, 0, more);
    sums.add(g.scale, more);
  }
  MOEBIUS_UNROLL
  for (int s = 0; s < 16; ++s) {
    const int i = LargeSums::row(s), j = LargeSums::token(s);
    if (i >= size.a || j >= size.b) continue;
    if (parts.at)
      parts.at[(int64_t{block_y()} * g.out.rows + row + i) * g.out.cols + column + j] = sums[s];
    else
      finish_float(g.out, row + i, column + j, sums[s]);
  }
}

void launch_input_gradient(Context& context, const InputGradient& g) {
  Parts parts = parts_of(context, g.out.tiles(), g.out.k_end);
  if (!take_parts(context, int64_t{g.out.rows} * g.out.cols, parts)) return;
  with_format(g.w.format, [&]<Format F>() {
    // The adapter's product is of float32 on both sides, whatever the weights are.
    launch(context.compute(), input_gradient<F>, Grid{g.out.tiles(), parts.count}, kTileBlock,
           kProductBytes<Side<FloatView, Lie::kAlong>, Side<FloatView, Lie::kAcross>>, g, parts);
  });
  sum_parts(context, g.out, parts);
}

struct BiasTerm {
  const float* dy;
  int64_t ld;
  __device__ float operator()(int64_t t, int64_t c) const { return dy[t * ld + c]; }
};

FloatProduct into(const Tensor& c) {
  FloatProduct p;
  const FloatView view = float_view(c);
  p.c = c.f32(), p.rows = view.rows, p.cols = view.cols, p.ldc = view.ld, p.add = true;
  return p;
}

// c += factor * a^T b, of n rows each.
void add_outer(Context& context, float factor, const FloatView& a, const FloatView& b, const Tensor& c) {
  FloatProduct p = into(c);
  p.a = a, p.b = b, p.k_end = a.rows, p.factor = factor;
  float_product(context, Lie::kAcross, Lie::kAcross, p);
}

// [n, rank] = rows times a matrix of the adapter that lies either way; null: no memory.
const float* through(Context& context, const FloatView& rows, const FloatView& matrix, Lie lie,
                     int32_t rank) {
  FloatProduct p;
  p.c = static_cast<float*>(context.scratch(int64_t{rows.rows} * rank * static_cast<int64_t>(sizeof(float))));
  if (!p.c) return nullptr;
  p.a = rows, p.b = matrix, p.rows = rows.rows, p.cols = p.ldc = rank, p.k_end = rows.cols;
  float_product(context, Lie::kAlong, lie, p);
  return p.c;
}

}  // namespace

// With n tokens: dx reads the weights, dy and dx, and writes dx; dw reads dy and x, and reads and writes dw.
// An adapter adds two readings of dy and two of x, which its rank makes nothing of beside them.
void linear_backward(Context& context, const LinearBackwardArgs& args) {
  const int64_t n = args.dy.shape[0], rows = args.dy.shape[1];
  if (n == 0 || rows == 0) return;
  const FloatView dy = float_view(args.dy), x = args.x.empty() ? FloatView() : float_view(args.x);
  const Lora* lora = args.w.lora;
  const int32_t rank = lora ? float_view(lora->a).rows : 0;
  const bool dx_wanted = !args.dx.empty() && args.w.cols > 0;
  FloatView dmid;  // dy b
  if (rank > 0 && ((dx_wanted && !lora->merged) || !lora->da.empty())) {
    const float* at = through(context, dy, float_view(lora->b), Lie::kAcross, rank);
    if (!at) return;
    dmid = float_view(at, n, rank, rank);
  }
  if (dx_wanted) {
    InputGradient g;
    g.dy = dy, g.w = weight_of(args.w), g.out = into(args.dx), g.out.k_end = dy.cols;
    if (rank > 0 && !lora->merged) g.dmid = dmid, g.a = float_view(lora->a), g.scale = lora->scale;
    launch_input_gradient(context, g);
  }
  if (!args.dw.empty()) add_outer(context, 1, dy, x, args.dw);
  if (!args.dbias.empty()) add_column_sums(context, n, rows, BiasTerm{dy.at, dy.ld}, args.dbias.f32());
  if (rank == 0 || args.w.cols == 0) return;
  if (!lora->da.empty()) add_outer(context, lora->scale, dmid, x, lora->da);
  if (lora->db.empty()) return;
  const float* mid = through(context, x, float_view(lora->a), Lie::kAlong, rank);  // x a^T
  if (mid) add_outer(context, lora->scale, dy, float_view(mid, n, rank, rank), lora->db);
}

}  // namespace moebius::cuda
