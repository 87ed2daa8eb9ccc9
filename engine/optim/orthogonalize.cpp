#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "engine/optim/parts.h"

namespace moebius::optim {
namespace {

constexpr int64_t kGramRatio = 4;
constexpr size_t kGramSteps = 3;

// The matrix as it lies, and room to work. Products stand on its shorter side: X X^T of a wide one, X^T X of
// a tall one.
struct Work {
  bool wide;
  MatrixView x, next;     // [rows, cols]
  MatrixView s, p, q, t;  // [short, short]
};

void add_to_diagonal(MatrixView a, float value) {
  for (int64_t i = 0; i < a.rows; ++i) a.row(i)[i] += value;
}

void symmetrize(MatrixView a) {
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < i; ++j) a.row(i)[j] = a.row(j)[i] = 0.5f * (a.row(i)[j] + a.row(j)[i]);
  }
}

void gram(const Team& team, Work& w) {
  w.wide ? multiply_nt(team, w.x, w.x, w.s) : multiply_tn(team, w.x, w.x, w.s);
}

// x = p x, or p x + what next holds; from the right for a tall x. p is symmetric.
void multiply_x(const Team& team, MatrixView p, bool accumulate, Work& w) {
  w.wide ? multiply_nn(team, p, w.x, w.next, accumulate) : multiply_nt(team, w.x, p, w.next, accumulate);
  std::swap(w.x, w.next);
}

// p = b s + c s^2.
void even_part(const Team& team, const Quintic& step, Work& w) {
  multiply_nt(team, w.s, w.s, w.p);
  const float b = static_cast<float>(step.b), c = static_cast<float>(step.c);
  for (int64_t i = 0; i < w.p.size(); ++i) w.p.data[i] = c * w.p.data[i] + b * w.s.data[i];
}

void plain_step(const Team& team, const Quintic& step, Work& w) {
  gram(team, w);
  even_part(team, step, w);
  const float a = static_cast<float>(step.a);
  team.blocks(w.x.size(), kBlockElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) w.next.data[i] = a * w.x.data[i];
  });
  multiply_x(team, w.p, /*accumulate=*/true, w);
}

// All matrices here are polynomials in the first s: they commute and are symmetric, up to rounding.
void gram_steps(const Team& team, std::span<const Quintic> steps, Work& w) {
  gram(team, w);
  for (size_t k = 0; k < steps.size(); ++k) {
    even_part(team, steps[k], w);
    add_to_diagonal(w.p, static_cast<float>(steps[k].a));
    if (k == 0) {
      std::copy_n(w.p.data, w.p.size(), w.q.data);
    } else {
      multiply_nt(team, w.p, w.q, w.t);
      std::swap(w.q, w.t);
      symmetrize(w.q);
    }
    if (k + 1 == steps.size()) break;
    multiply_nt(team, w.p, w.s, w.t);
    multiply_nt(team, w.t, w.p, w.s);
    symmetrize(w.s);
  }
  multiply_x(team, w.q, /*accumulate=*/false, w);
}

}  // namespace

Status Orthogonalize::check() const {
  if (steps.empty()) return invalid("optimizer: orthogonalisation without steps");
  if (steps.size() > 100)
    return invalid(
        fmt::format("optimizer: {} orthogonalisation steps; at most 100 make sense", steps.size()));
  if (!(margin >= 1) || !(eps >= 0) || !std::isfinite(margin) || !std::isfinite(eps))
    return invalid(fmt::format("optimizer: margin {} must be at least 1, eps {} at least 0", margin, eps));
  return Status();
}

int64_t Orthogonalize::scratch(int64_t rows, int64_t cols) const {
  const int64_t side = std::min(rows, cols);
  return rows * cols + 4 * side * side;
}

void Orthogonalize::apply(PartContext& context, MatrixView u) const {
  const Team& team = context.team;
  const int64_t shorter = std::min(u.rows, u.cols), longer = std::max(u.rows, u.cols);
  const double norm = std::sqrt(sum_of_squares(team, u.values()));
  if (norm == 0) return;
  scale(team, u.values(), static_cast<float>(1 / (margin * norm + eps)));

  Scratch scratch = context.scratch;
  Work w;
  for (MatrixView* square : {&w.s, &w.p, &w.q, &w.t})
    *square = {scratch.take(shorter * shorter), shorter, shorter};
  w.wide = u.rows <= u.cols;
  w.x = u;
  w.next = {scratch.take(u.size()), u.rows, u.cols};

  const bool use_gram = form == Form::kGram || (form == Form::kAuto && longer >= kGramRatio * shorter);
  const size_t stride = use_gram ? kGramSteps : 1;
  for (size_t k = 0; k < steps.size(); k += stride) {
    const size_t count = std::min(stride, steps.size() - k);
    if (use_gram)
      gram_steps(team, std::span(steps).subspan(k, count), w);
    else
      plain_step(team, steps[k], w);
  }
  if (w.x.data != u.data) std::copy_n(w.x.data, u.size(), u.data);
}

// Rounding can make a zero eigenvalue negative by 1e-16 of the largest, and ten steps of Polar Express lift
// it by 6e8: it stays small, and no restart from u is needed.
SquareMatrix Orthogonalize::on_gram(const SquareMatrix& gram) const {
  const int64_t n = gram.n;
  SquareMatrix s = gram, q{n, std::vector<double>(gram.values.size())};
  const double norm = std::sqrt(std::max(0.0, gram.trace()));
  const double start = norm == 0 ? 0 : 1 / (margin * norm + eps);
  for (double& value : s.values) value *= start * start;
  for (int64_t i = 0; i < n; ++i) q.at(i, i) = start;
  for (const Quintic& step : steps) {
    SquareMatrix p = product(s, s);
    for (size_t i = 0; i < p.values.size(); ++i) p.values[i] = step.c * p.values[i] + step.b * s.values[i];
    for (int64_t i = 0; i < n; ++i) p.at(i, i) += step.a;
    q = product(p, q);
    s = product(product(p, s), p);
  }
  return q;
}

Orthogonalize newton_schulz(int steps) {
  Orthogonalize part;
  part.steps.assign(static_cast<size_t>(std::max(0, steps)), {3.4445, -4.7750, 2.0315});
  return part;
}

Orthogonalize polar_express(int steps, double safety) {
  static constexpr Quintic kBest[] = {
      {8.28721201814563, -23.595886519098837, 17.300387312530933},
      {4.107059111542203, -2.9478499167379106, 0.5448431082926601},
      {3.9486908534822946, -2.908902115962949, 0.5518191394370137},
      {3.3184196573706015, -2.488488024314874, 0.51004894012372},
      {2.300652019954817, -1.6689039845747493, 0.4188073119525673},
      {1.891301407787398, -1.2679958271945868, 0.37680408948524835},
      {1.8750014808534479, -1.2500016453999487, 0.3750001645474248},
  };
  Orthogonalize part;
  part.margin = safety;
  for (int k = 0; k < steps; ++k) {
    if (k >= static_cast<int>(std::size(kBest))) {
      part.steps.push_back({1.875, -1.25, 0.375});
      continue;
    }
    const Quintic& best = kBest[k];
    part.steps.push_back({best.a / safety, best.b / std::pow(safety, 3), best.c / std::pow(safety, 5)});
  }
  return part;
}

}  // namespace moebius::optim
