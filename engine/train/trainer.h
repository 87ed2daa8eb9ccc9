// Trainer: the loop of a training run over a Trained: batches, gradients, clipping, schedule, checkpoints.
//
// A run is a function of its settings and data: the batches follow from the seed, sums do not depend on the
// number of threads, and a checkpoint holds all that the next step reads, so that a resumed run goes on bit
// for bit. The loss of a step is the mean over the weights of its tokens, however they were cut into
// micro-batches.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/optim/schedule.h"
#include "engine/train/batches.h"
#include "engine/train/dataset.h"
#include "engine/train/trained.h"

namespace moebius {

enum class LrShape : uint8_t { kCosine, kWsd, kLinear, kConstant };

struct TrainerOptions {
  int64_t steps = 1000;
  int64_t micro_tokens = 4096;  // rows of a micro-batch at most
  int64_t accumulation = 1;     // micro-batches in a step; the last of an epoch may have fewer
  int64_t batch = 0;            // examples in a step, however many micro-batches; 0: what accumulation holds
  double lr = 1e-3;             // peak
  LrShape shape = LrShape::kCosine;
  int64_t warmup = 0;       // steps
  double decay_part = 0.2;  // kWsd: the part of the steps that decays
  double floor = 0.1;       // of the peak, at the end
  double clip = 1.0;        // of the gradients' norm; infinite: measured only
  double balance_loss =
      0;  // alpha of the sequence-level balance loss (DeepSeek-V3: 1e-4), mean over sequences
  double group_balance = 0;  // alpha of the group loss of a model with zero experts (ZEDA: 0.1)
  double zero_weight = 2;    // w of that loss
  bool in_order = false;     // take the examples as they are listed, in every epoch: for a curriculum
  uint64_t seed = 0;         // of the order of the data
  PassOptions memory;        // changes no result; its max_tokens are micro_tokens
};

double learning_rate(const TrainerOptions& options, int64_t step);  // step from 0
std::string step_size(const TrainerOptions& options);               // for settings: what a step holds

struct StepReport {
  int64_t step = 0;  // steps done, this one included
  double loss = 0, lr = 0, gradient_norm = 0;
  int64_t tokens = 0;         // rows that went through the model
  int64_t target_tokens = 0;  // of them with a loss
  double accuracy = 0;        // the part of these whose target no token was likelier than
  double seconds = 0;
  int64_t epoch = 0;
  double expert_load = 0;  // of the fullest expert of any layer, over the mean: 1 is balanced; 0: no experts
  double max_logit = 0;    // the largest attention logit of any head
  double zero_rate = 0;    // share of the slots that chose zero experts
};

struct EvalReport {
  double loss = 0;      // mean over target tokens
  double accuracy = 0;  // as StepReport has it
  int64_t tokens = 0;
};

// Examples of a dataset, by index; both outlive what uses them.
struct TrainingSet {
  const Dataset* dataset = nullptr;
  std::vector<int64_t> examples;
};

TrainingSet all_of(const Dataset& dataset);

class Trainer {
 public:
  // What is given must outlive the trainer. settings: a text that names everything that decides the results
  // (model, data, options); a checkpoint of other settings is refused. kInvalid: options that make no sense,
  // a sequence longer than a micro-batch, no data.
  static Result<std::unique_ptr<Trainer>> create(const Model& model, Trained& trained,
                                                 const TrainingSet& data, const TrainerOptions& options,
                                                 int threads, std::string settings);
  // The same with steps from elsewhere, in place of data, accumulation and the order of the data.
  static Result<std::unique_ptr<Trainer>> create(const Model& model, Trained& trained,
                                                 std::unique_ptr<StepSource> steps,
                                                 const TrainerOptions& options, int threads,
                                                 std::string settings);
  ~Trainer();

  // One step of the optimizer. kInvalid when a loss or a gradient is not finite, or the loss has exploded:
  // the message names step and tensor, and the weights are as before the step.
  Result<StepReport> step();
  int64_t steps_done() const;
  int64_t total_steps() const;

  // The mean loss over a dataset, with no change to anything. progress: sequences done and in total; false
  // cancels.
  Result<EvalReport> evaluate(const TrainingSet& data,
                              const std::function<bool(int64_t, int64_t)>& progress = {});

  // kInvalid names the first weight or state tensor that is not finite: nothing of it is worth keeping.
  Status check();
  // Writes a checkpoint atomically, after check(), and goes back to one. A failed restore changes nothing.
  Status save(const std::string& path);
  Status restore(const std::string& path);

 private:
  struct Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
