// The parts that optimizers are made of.
//
// A part turns a direction u in place: it starts as the gradient, passes the parts of a recipe in order
// (momentum, scaling before, orthogonalisation, scaling after) and is then subtracted from the weights. A
// part is a value: what it remembers lies in named state tensors that are handed to it. A new variant is a
// struct with the members below and its name in `Part`.
//
//   kElementwise           true: each number of u depends on nothing but the same position of gradient and
//                          state (state shaped like the parameter); u may then be any piece of the parameter,
//                          seen as [1, n]
//   Status check()         kInvalid when a setting makes no sense
//   state(rows, cols)      the tensors to remember for a parameter [rows, cols]; they start as zeros
//   scratch(rows, cols)    floats of scratch that apply() takes
//   apply(context, u)      the formula
//
// g: gradient, W: weights, O: orthogonalised direction. Sources: Muon (K. Jordan et al., 2024), Moonlight
// (arXiv 2502.16982), Polar Express (2505.16932), MuonEq (2603.28254), NorMuon (2510.05491), AdamW
// (1711.05101).
#pragma once

#include <variant>
#include <vector>

#include "engine/optim/matrix.h"
#include "engine/optim/small_matrix.h"
#include "engine/optim/state.h"

namespace moebius::optim {

struct PartContext {
  int64_t step = 1;  // this one; the first is 1
  std::span<float* const> state;
  Scratch scratch;
  Team team;
};

// m = mu m + g; u = g + mu m with Nesterov, else m.
struct HeavyBall {
  static constexpr bool kElementwise = true;
  float mu = 0.95f;
  bool nesterov = true;
  Status check() const;
  std::vector<StateShape> state(int64_t rows, int64_t cols) const { return {{"momentum", rows, cols}}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// m = m + (1 - beta)(g - m); u = g + beta (m - g) with Nesterov, else m.
struct EmaMomentum {
  static constexpr bool kElementwise = true;
  float beta = 0.95f;
  bool nesterov = true;
  Status check() const;
  std::vector<StateShape> state(int64_t rows, int64_t cols) const { return {{"momentum", rows, cols}}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// m and v are averages of g and g^2; u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).
struct AdamMoments {
  static constexpr bool kElementwise = true;
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  Status check() const;
  std::vector<StateShape> state(int64_t rows, int64_t cols) const {
    return {{"exp_avg", rows, cols}, {"exp_avg_sq", rows, cols}};
  }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// MuonEq: u_ij / sqrt(row_i) / sqrt(col_j), row and col sums of squares of u plus eps.
struct Equilibrate {
  static constexpr bool kElementwise = false;
  bool rows = true, cols = false;
  double eps = 1e-8;
  Status check() const;
  std::vector<StateShape> state(int64_t, int64_t) const { return {}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// One odd step x -> a x + b x^3 + c x^5 on the singular values.
struct Quintic {
  double a = 0, b = 0, c = 0;
};

// u -> nearly its polar factor: X = u / (margin ||u||_F + eps), then for each step S = X X^T on the smaller
// side and X = a X + (b S + c S^2) X.
struct Orthogonalize {
  static constexpr bool kElementwise = false;
  // kGram: up to three steps at a time act on S alone and X is multiplied once at their end, the same
  // polynomial for 2/5 of the work on elongated matrices. Not more than three, because rounding can make a
  // zero eigenvalue of S negative, which the steps amplify (by 2e4 in the first three of Polar Express).
  // kAuto: kGram when one side is at least four times the other.
  enum class Form : uint8_t { kAuto, kPlain, kGram };
  std::vector<Quintic> steps;
  double margin = 1;
  double eps = 1e-7;
  Form form = Form::kAuto;
  Status check() const;
  std::vector<StateShape> state(int64_t, int64_t) const { return {}; }
  int64_t scratch(int64_t rows, int64_t cols) const;
  void apply(PartContext& context, MatrixView u) const;
  // The same for a u of which only the Gram matrix on its shorter side is at hand, in float64, where all
  // steps can act on it: u times what is returned (from the left where u is wide) is what apply makes of u.
  SquareMatrix on_gram(const SquareMatrix& gram) const;
};

// Muon's (3.4445, -4.7750, 2.0315): singular values above about 1e-3 of the norm end within 0.5 to 1.5.
Orthogonalize newton_schulz(int steps = 5);
// The best quintics for singular values down to 1e-3 of the norm; steps beyond the eighth repeat it, and
// converge to the polar factor. safety > 1 keeps rounding from lifting a singular value over the interval a
// step is made for: the start is divided by safety, and a, b, c of the first seven by safety, its third and
// its fifth power (the eighth step is safe as it is). 1.01 is made for bfloat16, and costs nothing in
// float32.
Orthogonalize polar_express(int steps = 5, double safety = 1.01);

// u * factor * sqrt(max(rows, cols)): an orthogonal u gets the root mean square `factor`, AdamW's is about
// 0.2.
struct MatchRms {
  static constexpr bool kElementwise = false;
  double factor = 0.2;
  Status check() const;
  std::vector<StateShape> state(int64_t, int64_t) const { return {}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// u * sqrt(max(1, rows / cols)), or unclamped.
struct SpectralScale {
  static constexpr bool kElementwise = false;
  bool clamp = true;
  Status check() const { return Status(); }
  std::vector<StateShape> state(int64_t, int64_t) const { return {}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

// NorMuon: v_i averages the mean square of row i of u; rows are divided by sqrt(v_i) + eps, and u gets its
// Frobenius norm back.
struct RowSecondMoment {
  static constexpr bool kElementwise = false;
  double beta = 0.95;
  double eps = 1e-10;
  Status check() const;
  std::vector<StateShape> state(int64_t rows, int64_t) const { return {{"row_second_moment", rows, 1}}; }
  int64_t scratch(int64_t, int64_t) const { return 0; }
  void apply(PartContext& context, MatrixView u) const;
};

using Part = std::variant<HeavyBall, EmaMomentum, AdamMoments, Equilibrate, Orthogonalize, MatchRms,
                          SpectralScale, RowSecondMoment>;

}  // namespace moebius::optim
