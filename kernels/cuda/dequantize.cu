#include "kernels/cuda/dequantize.h"

#include "kernels/cuda/rows.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 256;

template <Format F>
__global__ void dequantize_kernel(Weight w, const int32_t* ids, int64_t ids_stride, int64_t n, int64_t pieces,
                                  float* out, int64_t ld, bool wide) {
  const int64_t item = block_x() * kThreads + thread(), place = item / pieces;
  const int64_t begin = item % pieces * kColumns<F>;
  if (place >= n) return;
  const int64_t row = ids ? ids[place * ids_stride] : place;
  const Bytes16 bytes = load_row16(w, w.row(row), item % pieces * 16);
  float scale = 1.0f;
  if constexpr (kScaled<F>) scale = scale_at<F>(w, row, static_cast<int>(begin));
  MOEBIUS_UNROLL
  for (int piece = 0; piece < kColumns<F> / 4; ++piece) {
    float value[4];
    unpack4<F>(bytes, piece, value);
    Bytes16 four;
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i)
      four.word[i] = std::bit_cast<uint32_t>(kScaled<F> ? value[i] * scale : value[i]);
    const int64_t column = begin + 4 * piece;
    float* to = out + place * ld + column;
    if (wide && column + 4 <= w.cols) {
      store16(to, four);
      continue;
    }
    MOEBIUS_UNROLL
    for (int i = 0; i < 4; ++i)
      if (column + i < w.cols) to[i] = std::bit_cast<float>(four.word[i]);
  }
}

}  // namespace

// Reads the rows once and writes 4 bytes a number: 16 bytes of a row to a thread.
void dequantize_rows(Context& context, const Matrix& w, const int32_t* ids, int64_t ids_stride, int64_t n,
                     float* out, int64_t ld) {
  if (n == 0 || w.cols == 0 || !out) return;
  with_format(w.format, [&]<Format F>() {
    const int64_t pieces = blocks_for(w.cols, kColumns<F>);
    launch(context.compute(), dequantize_kernel<F>, Grid{blocks_for(n * pieces, kThreads)}, kThreads, 0,
           weight_of(w), ids, ids_stride, n, pieces, out, ld, aligned16(out, ld * 4));
  });
}

void dequantize(Context& context, const Matrix& w, float* out, int64_t ld) {
  dequantize_rows(context, w, nullptr, 0, w.rows, out, ld);
}

}  // namespace moebius::cuda
