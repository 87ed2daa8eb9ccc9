// PruneScores: how much each routed expert, and each neuron inside one, does for a model, by a calibration
// run.
//
// TENP (arXiv 2606.09885), for the tokens t that are routed to an expert, with gate weight g, input x (what
// the router saw), the neurons' values m = silu(gate x) * up x [width] and the output y = down m:
//   importance  of the expert   sum over t of g ||y|| (1 - cos(x, y))
//   score       of a neuron k   mean over t of <m_k down[:, k], y> / ||y||, signed
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/weights.h"

namespace moebius {

struct LayerScores {
  int64_t layer = 0;               // of the model
  std::vector<int64_t> tokens;     // [experts], routed to each
  std::vector<double> gate;        // [experts], the sum of g
  std::vector<double> importance;  // [experts]
  std::vector<float> neurons;      // [experts, width]
};

struct PruneScores {
  int64_t experts = 0, width = 0;
  std::vector<LayerScores> layers;  // the MoE layers, ascending
  int64_t tokens = 0;               // that were read

  const float* neurons(size_t layer, int64_t expert) const {
    return layers[layer].neurons.data() + expert * width;
  }
};

// All zero, shaped for a model whose experts are all equally wide.
PruneScores no_scores(const ModelConfig& config);

// Puts the product of the norms of a neuron's three weight vectors in place of its score, in experts that
// fewer than `least` tokens were routed to. Returns these experts.
struct RareExpert {
  int64_t layer = 0, expert = 0, tokens = 0;
};
std::vector<RareExpert> score_rare_experts(const Weights& weights, int64_t least, PruneScores& scores);

// To a safetensors file, atomically, and back. Reading: kInvalid names a file of another model or of none.
Status write_scores(const std::string& path, const ModelFiles& model, const PruneScores& scores);
Result<PruneScores> read_scores(const std::string& path, const ModelFiles& model);

}  // namespace moebius
