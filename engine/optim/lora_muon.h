// LoRA-Muon (Cesista et al., arXiv 2606.12921): steepest descent on the product B A of two LoRA factors under
// a spectral norm.
//
// With S_A = A A^T and S_B = B^T B (rank x rank), averages mA and mB of the gradients, and msign the polar
// factor:
//   dB = -(eta / 2) msign(mB S_A^{-1/2}) S_A^{-1/2},   dA = -(eta / 2) S_B^{-1/2} msign(S_B^{-1/2} mA)
//   s = sqrt(1 - decay * eta);   B = s B + dB / s,   A = s A + dA / s
// Each of dB A and B dA has a spectral norm of at most eta / 2, and the step of the product does not change
// when (B, A) becomes (B R, R^-1 A). First moments only.
//
// Inverse roots are damped: S + damping * tr(S) / rank * I. A factor that is exactly zero (B at the start of
// standard LoRA) has no inverse root and gives its partner no gradient either: the partner then keeps still,
// and the zero factor takes the whole budget eta. From the next step on both move.
#pragma once

#include <span>
#include <string>

#include "engine/optim/parts.h"

namespace moebius::optim {

struct LoraMuon {
  double beta = 0.95;     // of the averages of the gradients
  double decay = 0;       // of the product: 1 - eta * decay a step
  double damping = 1e-6;  // of the inverse roots, relative to the mean eigenvalue; above 0
  Orthogonalize msign = polar_express(10, 1.0);
};

struct LoraFactors {
  std::string name;  // for messages
  MatrixView a, b;   // [rank, in], [out, rank]; updated in place. rank <= in, out
  ConstMatrixView grad_a, grad_b;
  ParameterState* state = nullptr;  // of make_lora_state
};

Status check_lora_muon(const LoraMuon& config);
ParameterState make_lora_state(int64_t rank, int64_t in, int64_t out);  // "momentum_a", "momentum_b"

// One step with product budget eta (in units of B A: divide by LoRA's alpha / rank for a budget in units of
// the weights). Pairs are independent, one thread each; bit-equal for any number of threads. Errors are found
// before anything is changed: settings that make no sense, decay * eta >= 1, shapes that do not fit, a state
// of something else, no memory.
Status apply_lora_muon(const LoraMuon& config, double eta, std::span<const LoraFactors> pairs,
                       ThreadPool& pool);

}  // namespace moebius::optim
