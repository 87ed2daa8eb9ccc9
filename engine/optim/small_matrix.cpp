#include "engine/optim/small_matrix.h"

#include <algorithm>
#include <cmath>

namespace moebius::optim {
namespace {

constexpr int kMaxSweeps = 60;  // convergence is quadratic: about ten are ever needed

SquareMatrix zeros(int64_t n) { return {n, std::vector<double>(static_cast<size_t>(n * n))}; }

constexpr int64_t kBlock = 256;  // columns of a long row that are float64 at a time

// Eight sums side by side, which compilers turn into vectors.
double dot(const double* a, const double* b, int64_t n) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += a[c + l] * b[c + l];
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (; c < n; ++c) sum += a[c] * b[c];
  return sum;
}

void add_scaled(double factor, const double* from, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

void fill_upper(SquareMatrix& s) {
  for (int64_t i = 0; i < s.n; ++i)
    for (int64_t j = 0; j < i; ++j) s.at(j, i) = s.at(i, j);
}

// Rotates rows and columns p and q of s so that s(p, q) becomes 0, and the columns of v with them.
void rotate(SquareMatrix& s, SquareMatrix& v, int64_t p, int64_t q) {
  const double off = s.at(p, q);
  const double theta = (s.at(q, q) - s.at(p, p)) / (2 * off);
  const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::hypot(theta, 1.0));
  const double c = 1 / std::hypot(t, 1.0), sine = t * c;
  for (int64_t k = 0; k < s.n; ++k) {
    const double kp = s.at(k, p), kq = s.at(k, q);
    s.at(k, p) = c * kp - sine * kq, s.at(k, q) = sine * kp + c * kq;
  }
  for (int64_t k = 0; k < s.n; ++k) {
    const double pk = s.at(p, k), qk = s.at(q, k);
    s.at(p, k) = c * pk - sine * qk, s.at(q, k) = sine * pk + c * qk;
    const double vp = v.at(k, p), vq = v.at(k, q);
    v.at(k, p) = c * vp - sine * vq, v.at(k, q) = sine * vp + c * vq;
  }
  s.at(p, q) = s.at(q, p) = 0;
}

}  // namespace

double SquareMatrix::trace() const {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += at(i, i);
  return sum;
}

SquareMatrix row_gram(ConstMatrixView a) {
  SquareMatrix s = zeros(a.rows);
  std::vector<double> block(static_cast<size_t>(a.rows * kBlock));
  for (int64_t begin = 0; begin < a.cols; begin += kBlock) {
    const int64_t count = std::min(kBlock, a.cols - begin);
    for (int64_t i = 0; i < a.rows; ++i) std::copy_n(a.row(i) + begin, count, block.data() + i * kBlock);
    for (int64_t i = 0; i < a.rows; ++i)
      for (int64_t j = 0; j <= i; ++j)
        s.at(i, j) += dot(block.data() + i * kBlock, block.data() + j * kBlock, count);
  }
  fill_upper(s);
  return s;
}

SquareMatrix column_gram(ConstMatrixView b) {
  SquareMatrix s = zeros(b.cols);
  std::vector<double> row(static_cast<size_t>(b.cols));
  for (int64_t r = 0; r < b.rows; ++r) {
    std::copy_n(b.row(r), b.cols, row.data());
    for (int64_t i = 0; i < b.cols; ++i)
      add_scaled(row[static_cast<size_t>(i)], row.data(), i + 1, &s.at(i, 0));
  }
  fill_upper(s);
  return s;
}

SquareMatrix product(const SquareMatrix& a, const SquareMatrix& b) {
  SquareMatrix out = zeros(a.n);
  for (int64_t i = 0; i < a.n; ++i)
    for (int64_t k = 0; k < a.n; ++k)
      add_scaled(a.at(i, k), &b.values[static_cast<size_t>(k * a.n)], a.n, &out.at(i, 0));
  return out;
}

Eigen eigen_symmetric(SquareMatrix s) {
  Eigen out{{}, zeros(s.n)};
  for (int64_t i = 0; i < s.n; ++i) out.vectors.at(i, i) = 1;
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool rotated = false;
    for (int64_t p = 0; p < s.n; ++p) {
      for (int64_t q = p + 1; q < s.n; ++q) {
        const double scale = std::sqrt(std::abs(s.at(p, p))) * std::sqrt(std::abs(s.at(q, q)));
        if (!(std::abs(s.at(p, q)) > 1e-16 * scale) || std::abs(s.at(p, q)) < 1e-300) continue;
        rotate(s, out.vectors, p, q);
        rotated = true;
      }
    }
    if (!rotated) break;
  }
  for (int64_t i = 0; i < s.n; ++i) out.values.push_back(s.at(i, i));
  return out;
}

SquareMatrix inverse_root(const SquareMatrix& s, double damping) {
  const Eigen eigen = eigen_symmetric(s);
  const double shift = damping * s.trace() / static_cast<double>(s.n);
  SquareMatrix root = zeros(s.n);
  for (int64_t k = 0; k < s.n; ++k) {
    const double factor = 1 / std::sqrt(std::max(0.0, eigen.values[static_cast<size_t>(k)]) + shift);
    for (int64_t i = 0; i < s.n; ++i) {
      for (int64_t j = 0; j < s.n; ++j)
        root.at(i, j) += factor * eigen.vectors.at(i, k) * eigen.vectors.at(j, k);
    }
  }
  return root;
}

}  // namespace moebius::optim
