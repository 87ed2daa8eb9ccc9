#include "engine/optim/matrix.h"

#include "kernels/gemm.h"

namespace moebius::optim {

void multiply_nt(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y, bool accumulate) {
  MOEBIUS_CHECK(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows);
  team.blocks(x.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    gemm_f32(end - begin, w.rows, x.cols, x.row(begin), x.cols, w.data, w.cols, y.row(begin), y.cols,
             accumulate);
  });
}

void transpose(const Team& team, ConstMatrixView in, MatrixView out) {
  MOEBIUS_CHECK(out.rows == in.cols && out.cols == in.rows);
  constexpr int64_t kTile = 32;
  team.blocks(out.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t c0 = begin; c0 < end; c0 += kTile) {
      for (int64_t r0 = 0; r0 < in.rows; r0 += kTile) {
        for (int64_t c = c0; c < std::min(end, c0 + kTile); ++c) {
          for (int64_t r = r0; r < std::min(in.rows, r0 + kTile); ++r)
            out.data[c * out.cols + r] = in.data[r * in.cols + c];
        }
      }
    }
  });
}

void scale(const Team& team, std::span<float> values, float factor) {
  team.blocks(std::ssize(values), kBlockElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] *= factor;
  });
}

double sum_of_squares(const Team& team, std::span<const float> values) {
  const int64_t n = std::ssize(values);
  std::vector<double> partial(static_cast<size_t>((n + kBlockElements - 1) / kBlockElements));
  team.blocks(n, kBlockElements, [&](int64_t begin, int64_t end) {
    double lanes[4] = {};
    for (int64_t i = begin; i < end; ++i) {
      const double value = static_cast<double>(values[static_cast<size_t>(i)]);
      lanes[i & 3] += value * value;
    }
    partial[static_cast<size_t>(begin / kBlockElements)] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  });
  double sum = 0;
  for (double value : partial) sum += value;
  return sum;
}

}  // namespace moebius::optim
