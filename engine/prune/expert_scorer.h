// ExpertScorer: a MoE layer's experts on many tokens at once, and what that says of experts and neurons.
#pragma once

#include <memory>
#include <vector>

#include "engine/prune/scores.h"
#include "engine/workspace.h"
#include "kernels/parallel.h"

namespace moebius {

// Of n tokens, on the host.
struct RoutedTokens {
  Tensor h;        // [n, hidden], the experts' input
  Tensor ids;      // I32 [n, top_k]
  Tensor weights;  // [n, top_k]
  Tensor slots;    // [n, top_k, hidden], out: as expert_ffn; slots with id -1 are left untouched
};

class ExpertScorer {
 public:
  // backend: the host's. Both must outlive this.
  static Result<std::unique_ptr<ExpertScorer>> create(const ModelConfig& config, Backend& backend,
                                                      int threads);

  // Neuron scores of earlier runs, to add to.
  void go_on(const PruneScores& scores);
  // Computes the slots and adds their tokens to the scores; neuron scores are kept here as sums until
  // finish().
  void run(const std::vector<ExpertWeights>& experts, const RoutedTokens& tokens, LayerScores& scores);
  void finish(PruneScores& scores) const;

 private:
  struct Slot {
    int32_t token, k;
  };
  ExpertScorer(const ModelConfig& config, Backend& backend, int threads)
      : config_(config), backend_(backend), pool_(threads) {}
  void lay_out(int64_t n, int64_t width, Arena& arena);
  void silu_times_up(int64_t count);
  void run_chunk(const ExpertWeights& expert, const RoutedTokens& tokens, const Slot* slots, int64_t count);
  void score_expert(const RoutedTokens& tokens, const Slot* slots, int64_t count, int64_t expert,
                    LayerScores& scores);
  void score_neurons(int64_t count, double* sums);
  std::vector<double>& sums_of(const LayerScores& scores);

  const ModelConfig& config_;
  Backend& backend_;
  ThreadPool pool_;
  Buffer memory_;                          // of the tensors below
  Tensor x_, y_;                           // [chunk, hidden]
  Tensor gate_, up_, m_, q_;               // [chunk, width]; q = y down
  std::vector<float> over_y_;              // [chunk]: 1 / ||y||, or 0
  std::vector<std::vector<double>> sums_;  // [layer of the model][experts * width]
};

}  // namespace moebius
