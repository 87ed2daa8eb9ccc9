// Small dense matrices in float64: what LoRA-Muon needs of the rank x rank Gram matrices.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/optim/matrix.h"

namespace moebius::optim {

// Row-major [n, n].
struct SquareMatrix {
  int64_t n = 0;
  std::vector<double> values;
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * n + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * n + j)]; }
  double trace() const;
};

SquareMatrix row_gram(ConstMatrixView a);     // a a^T
SquareMatrix column_gram(ConstMatrixView b);  // b^T b
SquareMatrix product(const SquareMatrix& a, const SquareMatrix& b);

// s = V diag(values) V^T for symmetric s, by cyclic Jacobi rotations: small eigenvalues keep their relative
// accuracy where s is well scaled, and nothing can fail. Column j of vectors belongs to values[j].
struct Eigen {
  std::vector<double> values;
  SquareMatrix vectors;
};
Eigen eigen_symmetric(SquareMatrix s);

// (s + damping * tr(s) / n * I)^{-1/2} for s positive semi-definite with a trace above 0; eigenvalues that
// rounding made negative count as 0, so that damping > 0 bounds the result.
SquareMatrix inverse_root(const SquareMatrix& s, double damping);

}  // namespace moebius::optim
