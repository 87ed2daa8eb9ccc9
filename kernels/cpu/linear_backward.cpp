#include <algorithm>

#include "kernels/cpu/host_grad.h"
#include "kernels/cpu/workers.h"
#include "kernels/gemm.h"

namespace moebius {
namespace {

constexpr int64_t kPanelRows = 256;  // of w, held transposed at a time
constexpr int64_t kPiece = 16;       // rows of a panel that a thread transposes at a time
constexpr int64_t kBlock = 128;      // columns of dx, or rows of dw, that make a task

// dx += dy w: panel after panel of rows of w, so that every number of dx adds them in the same order.
void add_dx(const LinearBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const Matrix& w = args.w;
  const int64_t n = args.dy.shape[0], pieces = kPanelRows / kPiece;
  float* panel = context.scratch.take<float>(w.cols * kPanelRows);  // [cols, kPanelRows]
  float* copies = context.scratch.take<float>(worker_count(context, pieces) * kPiece * w.cols);
  for (int64_t first = 0; first < w.rows; first += kPanelRows) {
    const int64_t last = std::min(first + kPanelRows, w.rows), count = last - first;
    for_each_unit(context, (count + kPiece - 1) / kPiece, [&](int64_t piece, int64_t worker) {
      const int64_t begin = first + piece * kPiece, end = std::min(begin + kPiece, last);
      float* copy = copies + worker * kPiece * w.cols;
      context.kernels(w.format).dequantize_rows(w, begin, end, copy, w.cols);
      transpose(copy, end - begin, w.cols, w.cols, panel + begin - first, kPanelRows);
    });
    parallel_for(context.pool, w.cols, kBlock, [&](int64_t begin, int64_t end) {
      gemm_f32(n, end - begin, count, args.dy.f32() + first, args.dy.stride[0], panel + begin * kPanelRows,
               kPanelRows, args.dx.f32() + begin, args.dx.stride[0], true);
    });
  }
}

// dw += dy^T x
void add_dw(const LinearBackwardArgs& args, HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t n = args.dy.shape[0], rows = args.dw.shape[0], cols = args.dw.shape[1];
  float* x = context.scratch.take<float>(cols * n);  // [cols, n]
  const int64_t tasks = (rows + kBlock - 1) / kBlock;
  float* dys = context.scratch.take<float>(worker_count(context, tasks) * kBlock * n);  // [kBlock, n] each
  parallel_for(context.pool, cols, kBlock, [&](int64_t begin, int64_t end) {
    transpose(args.x.f32() + begin, n, end - begin, args.x.stride[0], x + begin * n, n);
  });
  for_each_unit(context, tasks, [&](int64_t task, int64_t worker) {
    const int64_t begin = task * kBlock, count = std::min(kBlock, rows - begin);
    float* dy = dys + worker * kBlock * n;
    transpose(args.dy.f32() + begin, n, count, args.dy.stride[0], dy, n);
    gemm_f32(count, cols, n, dy, n, x, n, args.dw.f32() + begin * args.dw.stride[0], args.dw.stride[0], true);
  });
}

void linear_backward_gemm(const LinearBackwardArgs& args, HostContext& context) {
  const int64_t n = args.dy.shape[0], rows = args.dy.shape[1];
  if (n == 0 || rows == 0) return;
  if (!args.dx.empty() && args.w.cols > 0) add_dx(args, context);
  if (!args.dw.empty() && args.dw.shape[1] > 0) add_dw(args, context);
  parallel_for(context.pool, args.dbias.empty() ? 0 : rows, kBlock, [&](int64_t begin, int64_t end) {
    LinearBackwardArgs bias;
    bias.dy = args.dy.slice(1, begin, end - begin), bias.dbias = args.dbias.rows(begin, end - begin);
    ref::linear_backward(bias);
  });
}

}  // namespace

std::span<const Candidate<LinearBackwardArgs>> host_linear_backward() {
  static constexpr Candidate<LinearBackwardArgs> kCandidates[] = {
      {"linear_backward_gemm", declines_nothing<LinearBackwardArgs>, linear_backward_gemm},
      grad_reference<LinearBackwardArgs, ref::linear_backward>("linear_backward_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
