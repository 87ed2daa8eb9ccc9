#include "engine/optim/lora_muon.h"

#include <cmath>

#include <fmt/format.h>

#include "engine/optim/optimizer.h"
#include "engine/optim/small_matrix.h"
#include "kernels/tensor.h"

namespace moebius::optim {
namespace {

constexpr int64_t kColumns = 256;  // of a, that are float64 at a time

void average(float* m, ConstMatrixView g, double beta) {
  const float take = static_cast<float>(1 - beta);
  for (int64_t i = 0; i < g.size(); ++i) m[i] += take * (g.data[i] - m[i]);
}

// a = keep a - rate t m
void move_left(const SquareMatrix& t, ConstMatrixView m, double keep, double rate, MatrixView a) {
  double sums[kColumns];
  for (int64_t begin = 0; begin < a.cols; begin += kColumns) {
    const int64_t count = std::min(kColumns, a.cols - begin);
    for (int64_t i = 0; i < t.n; ++i) {
      std::fill_n(sums, count, 0.0);
      for (int64_t k = 0; k < t.n; ++k) {
        const double factor = rate * t.at(i, k);
        const float* from = m.row(k) + begin;
        for (int64_t c = 0; c < count; ++c) sums[c] += factor * static_cast<double>(from[c]);
      }
      float* to = a.row(i) + begin;
      for (int64_t c = 0; c < count; ++c)
        to[c] = static_cast<float>(keep * static_cast<double>(to[c]) - sums[c]);
    }
  }
}

// b = keep b - rate m t
void move_right(ConstMatrixView m, const SquareMatrix& t, double keep, double rate, MatrixView b) {
  std::vector<double> sums(static_cast<size_t>(t.n));
  for (int64_t i = 0; i < b.rows; ++i) {
    std::ranges::fill(sums, 0.0);
    for (int64_t k = 0; k < t.n; ++k) {
      const double factor = rate * static_cast<double>(m.row(i)[k]);
      const double* from = t.values.data() + k * t.n;
      for (int64_t j = 0; j < t.n; ++j) sums[static_cast<size_t>(j)] += factor * from[j];
    }
    float* to = b.row(i);
    for (int64_t j = 0; j < t.n; ++j)
      to[j] = static_cast<float>(keep * static_cast<double>(to[j]) - sums[static_cast<size_t>(j)]);
  }
}

// With root = S^{-1/2} and the Gram matrix of m: root msign(root m), or msign(m root) root, is m times this
// from that side. Only matrices of the rank's size are orthogonalised, whatever the factors' other sides.
SquareMatrix whitened(const LoraMuon& config, const SquareMatrix& s, const SquareMatrix& gram) {
  const SquareMatrix root = inverse_root(s, config.damping);
  return product(product(root, config.msign.on_gram(product(product(root, gram), root))), root);
}

void scale_to(MatrixView w, double keep) {
  for (float& value : w.values()) value = static_cast<float>(keep * static_cast<double>(value));
}

void step_pair(const LoraMuon& config, double eta, const LoraFactors& f) {
  const MatrixView mean_a{f.state->tensors[0].values.data(), f.a.rows, f.a.cols};
  const MatrixView mean_b{f.state->tensors[1].values.data(), f.b.rows, f.b.cols};
  average(mean_a.data, f.grad_a, config.beta);
  average(mean_b.data, f.grad_b, config.beta);

  const SquareMatrix gram_a = row_gram(f.a), gram_b = column_gram(f.b);
  const bool move_a = gram_b.trace() > 0, move_b = gram_a.trace() > 0;
  const double budget = move_a && move_b ? eta / 2 : eta;
  const double keep = std::sqrt(1 - config.decay * eta), rate = budget / keep;
  if (move_b)
    move_right(mean_b, whitened(config, gram_a, column_gram(mean_b)), keep, rate, f.b);
  else
    scale_to(f.b, keep);
  if (move_a)
    move_left(whitened(config, gram_b, row_gram(mean_a)), mean_a, keep, rate, f.a);
  else
    scale_to(f.a, keep);
  ++f.state->step;
}

Status check_pair(const LoraFactors& f) {
  const auto wrong = [&](const std::string& what) {
    return invalid(fmt::format("LoRA-Muon: {} (A [{}, {}], B [{}, {}]): {}", f.name, f.a.rows, f.a.cols,
                               f.b.rows, f.b.cols, what));
  };
  const int64_t rank = f.a.rows;
  int64_t size = 0;
  if (rank <= 0 || rank != f.b.cols || f.a.cols < rank || f.b.rows < rank)
    return wrong("the rank must be the same in both and at most the other sides");
  if (!checked_mul(f.a.rows, f.a.cols, &size) || !checked_mul(f.b.rows, f.b.cols, &size))
    return wrong("too large");
  if (f.grad_a.rows != rank || f.grad_a.cols != f.a.cols || f.grad_b.rows != f.b.rows ||
      f.grad_b.cols != rank)
    return wrong("a gradient has another shape");
  if (!f.state || f.state->tensors.size() != 2 || std::ssize(f.state->tensors[0].values) != f.a.size() ||
      std::ssize(f.state->tensors[1].values) != f.b.size())
    return wrong("its state is of another optimizer");
  return Status();
}

}  // namespace

Status check_lora_muon(const LoraMuon& config) {
  MOEBIUS_TRY(config.msign.check());
  if (!(config.beta >= 0 && config.beta < 1))
    return invalid(fmt::format("LoRA-Muon: beta is {}, but must be in [0, 1)", config.beta));
  if (!(config.damping > 0) || !std::isfinite(config.damping))
    return invalid(fmt::format("LoRA-Muon: damping is {}, but must be above 0", config.damping));
  if (!(config.decay >= 0) || !std::isfinite(config.decay))
    return invalid(fmt::format("LoRA-Muon: decay is {}, but must be at least 0", config.decay));
  return Status();
}

ParameterState make_lora_state(int64_t rank, int64_t in, int64_t out) {
  return make_state(std::vector<StateShape>{{"momentum_a", rank, in}, {"momentum_b", out, rank}});
}

Status apply_lora_muon(const LoraMuon& config, double eta, std::span<const LoraFactors> pairs,
                       ThreadPool& pool) {
  MOEBIUS_TRY(check_lora_muon(config));
  if (!(eta >= 0) || !std::isfinite(eta) || config.decay * eta >= 1) {
    return invalid(
        fmt::format("LoRA-Muon: step {} with decay {}: the step must be at least 0 and their product below 1",
                    eta, config.decay));
  }
  for (const LoraFactors& f : pairs) MOEBIUS_TRY(check_pair(f));
  parallel_for(pool, std::ssize(pairs), 1,
               [&](int64_t i, int64_t) { step_pair(config, eta, pairs[static_cast<size_t>(i)]); });
  return Status();
}

}  // namespace moebius::optim
