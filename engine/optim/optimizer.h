// Optimizers: a recipe is a list of parts and a decay; a step applies one recipe to many parameters.
#pragma once

#include <string>
#include <vector>

#include "engine/optim/parts.h"

namespace moebius::optim {

struct Recipe {
  std::vector<Part> parts;  // in order; see parts.h
  double decay = 0;         // decoupled: W shrinks by 1 - lr * decay
};

// Moonlight: heavy ball with Nesterov, five Newton-Schulz steps, the root mean square of AdamW.
Recipe muon(double decay = 0.1, Orthogonalize how = newton_schulz());
Recipe adamw(double decay = 0.1, AdamMoments moments = {});

// All that decides what a recipe does, in one line.
std::string describe(const Recipe& recipe);
// kInvalid for settings that make no sense, and for two parts whose state has the same name.
Status check_recipe(const Recipe& recipe);
// A fresh state for a parameter [rows, cols].
ParameterState make_state(const Recipe& recipe, int64_t rows, int64_t cols);

struct Parameter {
  std::string name;          // for messages
  MatrixView weight;         // updated in place
  ConstMatrixView gradient;  // of the same shape
  ParameterState* state = nullptr;
};

// W = W (1 - lr decay) - lr u for every parameter, u from the recipe's parts. Matrices are independent (each
// expert its own). Every matrix is worked on by one thread when there are enough of them, by all threads
// otherwise; weights and states come out bit-equal for any number of threads and any company in the call.
// Errors (a recipe that fails its check, a state of another recipe, an empty matrix, no memory) are found
// before anything is changed. Gradients are taken as they are: see check_gradients.
Status apply_step(const Recipe& recipe, double lr, std::span<const Parameter> parameters, ThreadPool& pool);

}  // namespace moebius::optim
