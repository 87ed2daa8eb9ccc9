#include "engine/optim/lora_muon.h"

#include <cmath>

#include <fmt/format.h>

#include "engine/optim/optimizer.h"
#include "engine/optim/small_matrix.h"
#include "kernels/tensor.h"

namespace moebius::optim {
namespace {

// out = left in, or out = in right, with a square factor of the fitting side.
void times_left(const SquareMatrix& left, ConstMatrixView in, MatrixView out) {
  std::vector<double> row(static_cast<size_t>(in.cols));
  for (int64_t i = 0; i < left.n; ++i) {
    std::ranges::fill(row, 0.0);
    for (int64_t k = 0; k < left.n; ++k) {
      const double factor = left.at(i, k);
      const float* from = in.row(k);
      for (size_t c = 0; c < row.size(); ++c) row[c] += factor * static_cast<double>(from[c]);
    }
    for (size_t c = 0; c < row.size(); ++c) out.row(i)[c] = static_cast<float>(row[c]);
  }
}

void times_right(ConstMatrixView in, const SquareMatrix& right, MatrixView out) {
  std::vector<double> row(static_cast<size_t>(right.n));
  for (int64_t i = 0; i < in.rows; ++i) {
    std::ranges::fill(row, 0.0);
    for (int64_t k = 0; k < right.n; ++k) {
      const double factor = static_cast<double>(in.row(i)[k]);
      for (int64_t j = 0; j < right.n; ++j) row[static_cast<size_t>(j)] += factor * right.at(k, j);
    }
    for (size_t j = 0; j < row.size(); ++j) out.row(i)[j] = static_cast<float>(row[j]);
  }
}

void average(float* m, ConstMatrixView g, double beta) {
  const float take = static_cast<float>(1 - beta);
  for (int64_t i = 0; i < g.size(); ++i) m[i] += take * (g.data[i] - m[i]);
}

void add(MatrixView w, ConstMatrixView d, double keep, double rate) {
  const float k = static_cast<float>(keep), r = static_cast<float>(rate);
  for (int64_t i = 0; i < w.size(); ++i) w.data[i] = k * w.data[i] + r * d.data[i];
}

int64_t scratch_of(const LoraMuon& config, const LoraFactors& f) {
  return 2 * (f.a.size() + f.b.size()) +
         std::max(config.msign.scratch(f.a.rows, f.a.cols), config.msign.scratch(f.b.rows, f.b.cols));
}

void step_pair(const LoraMuon& config, double eta, const LoraFactors& f, Scratch scratch) {
  const MatrixView mean_a{f.state->tensors[0].values.data(), f.a.rows, f.a.cols};
  const MatrixView mean_b{f.state->tensors[1].values.data(), f.b.rows, f.b.cols};
  average(mean_a.data, f.grad_a, config.beta);
  average(mean_b.data, f.grad_b, config.beta);

  const SquareMatrix gram_a = row_gram(f.a), gram_b = column_gram(f.b);
  const bool move_a = gram_b.trace() > 0, move_b = gram_a.trace() > 0;
  const double budget = move_a && move_b ? eta / 2 : eta;
  const MatrixView whitened_a{scratch.take(f.a.size()), f.a.rows, f.a.cols};
  const MatrixView step_a{scratch.take(f.a.size()), f.a.rows, f.a.cols};
  const MatrixView whitened_b{scratch.take(f.b.size()), f.b.rows, f.b.cols};
  const MatrixView step_b{scratch.take(f.b.size()), f.b.rows, f.b.cols};
  PartContext context{f.state->step + 1, {}, scratch, Team{}};
  if (move_b) {
    const SquareMatrix root = inverse_root(gram_a, config.damping);
    times_right(mean_b, root, whitened_b);
    config.msign.apply(context, whitened_b);
    times_right(whitened_b, root, step_b);
  }
  if (move_a) {
    const SquareMatrix root = inverse_root(gram_b, config.damping);
    times_left(root, mean_a, whitened_a);
    config.msign.apply(context, whitened_a);
    times_left(root, whitened_a, step_a);
  }
  const double keep = std::sqrt(1 - config.decay * eta);
  add(f.b, step_b, keep, -(budget / keep));
  add(f.a, step_a, keep, -(budget / keep));
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
  std::vector<int64_t> begin{0};
  for (const LoraFactors& f : pairs) {
    MOEBIUS_TRY(check_pair(f));
    begin.push_back(begin.back() + scratch_of(config, f));
  }
  // Adapters are small: scratch for all pairs at once is a few times their size.
  MOEBIUS_ASSIGN(Buffer memory, Buffer::host(static_cast<size_t>(begin.back()) * sizeof(float)));
  parallel_for(pool, std::ssize(pairs), 1, [&](int64_t i, int64_t) {
    const size_t n = static_cast<size_t>(i);
    step_pair(config, eta, pairs[n], {memory.as<float>() + begin[n], begin[n + 1] - begin[n]});
  });
  return Status();
}

}  // namespace moebius::optim
