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

void multiply_nn(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y, bool accumulate) {
  MOEBIUS_CHECK(x.cols == w.rows && y.rows == x.rows && y.cols == w.cols);
  team.blocks(x.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    gemm_f32_xw(end - begin, w.cols, x.cols, x.row(begin), x.cols, w.data, w.cols, y.row(begin), y.cols,
                accumulate);
  });
}

void multiply_tn(const Team& team, ConstMatrixView x, ConstMatrixView w, MatrixView y, bool accumulate) {
  MOEBIUS_CHECK(x.rows == w.rows && y.rows == x.cols && y.cols == w.cols);
  team.blocks(x.cols, kBlockRows, [&](int64_t begin, int64_t end) {
    gemm_f32_xtw(end - begin, w.cols, x.rows, x.data + begin, x.cols, w.data, w.cols, y.row(begin), y.cols,
                 accumulate);
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
