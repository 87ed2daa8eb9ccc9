// Trained: what a run trains. A Trainer feeds it gradients and asks it to step; it knows its own optimizer.
#pragma once

#include <string>
#include <vector>

#include "engine/optim/gradients.h"
#include "engine/optim/state.h"
#include "engine/train/pass.h"

namespace moebius {

class Trained {
 public:
  virtual ~Trained() = default;

  virtual const Weights& weights() const = 0;      // of the model to run, with its adapters
  virtual const Gradients& gradients() const = 0;  // for TrainingPass::accumulate
  virtual std::span<const optim::NamedGradient> named_gradients() const = 0;  // the same memory, for clipping
  virtual void zero_gradients() = 0;
  // Gradients that were added up elsewhere come to named_gradients().
  virtual Status collect_gradients() { return Status(); }

  // One step of the optimizer at this learning rate. statistics: what the step's batches left in the pass.
  // Errors leave everything as it was.
  virtual Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) = 0;

  // All that a later run needs to go on bit for bit; aliases the memory of this object.
  virtual std::vector<optim::StateEntry> entries() = 0;
  // To be called after the memory behind entries() was written.
  virtual Status refresh() { return Status(); }
};

}  // namespace moebius
