// TrainingPass: the loss of whole sequences and its gradients, one micro-batch at a time.
//
// Activation checkpointing: the forward keeps each layer's input and routing, and what attention computed in
// the last layers, as far as kept_bytes reach; the backward runs the rest of a layer again, then its mirror
// (engine/backward.h). What is kept changes no bit of a result. Sequences lie one after another in the rows
// of a batch and never see each other; nothing is padded. Sums are bit-equal for any number of threads.
//
// On a device, the model's embedding is the host's, and so is its head where Model says so. All memory is
// taken when the pass is created.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/train/pass_memory.h"

namespace moebius {

struct TrainBatch {
  std::span<const int32_t> ids;      // [n], each in [0, vocab)
  std::span<const int32_t> targets;  // [n]: the id to predict at a row, or -1: no loss there
  std::span<const float> weights;    // [n], of the rows' losses; empty: all 1
  std::span<const int64_t> starts;   // ascending from 0 to n: sequence i is rows [starts[i], starts[i + 1])
  // [n, layers with experts, top_k], on the host: the rows that routers choose, as RoutingLog reads them;
  // empty: the best
  std::span<const int32_t> routing = {};
};

class TrainingPass {
 public:
  // Everything in model must outlive the pass.
  static Result<std::unique_ptr<TrainingPass>> create(const Model& model, const PassOptions& options);

  // The sum over rows of weight * -log p(target). kNoMemory as it arises; kInvalid when a loss is not finite:
  // the message names the layer.
  Result<double> evaluate(const TrainBatch& batch);
  // The same, and adds `scale` times its gradients to gradients (shaped as the model's weights) and to those
  // of adapters; and the gradients of a balance loss. Weights may be negative here: with advantages it is
  // the gradient of a policy.
  Result<double> accumulate(const TrainBatch& batch, float scale, const Gradients& gradients,
                            const BalanceLoss& balance = {});
  // -log p(target) of each row, 0 where there is none.
  Result<std::vector<float>> losses(const TrainBatch& batch);
  // The experts of the last batch's tokens in a layer, I32 [n, top_k], -1 where none was to compute; empty in
  // a dense layer. On the host only.
  const Tensor& expert_ids(int64_t layer) const { return v_.saved[static_cast<size_t>(layer)].ids; }

  int64_t hits() const { return hits_; }  // of the last batch: rows whose target no id was likelier than
  // Of the batches since the last reset: how many tokens chose each row of a layer's router, empty for a
  // dense layer; and the largest scale * q . key of each head, [layers, heads] (only of batches with
  // gradients).
  const std::vector<std::vector<int64_t>>& load() const { return load_; }
  std::span<const float> highest_logits() const { return highest_; }
  void reset_statistics();

 private:
  TrainingPass(const Model& model, const PassOptions& options) : model_(model), options_(options) {}
  bool head_here() const { return model_.weights.head.space == model_.backend.space(); }
  Backend& head_backend() const { return head_here() ? model_.backend : *model_.host; }
  Status begin(const TrainBatch& batch);
  Workspace layer_workspace(int64_t layer) const;
  int64_t moe_layers() const;
  Tensor forced(int64_t layer) const;
  void run_forward();
  int64_t choose_rows(const TrainBatch& batch, float scale);
  Status head_chunk(int64_t begin, int64_t m, const Gradients* gradients);
  Result<double> run_head(const TrainBatch& batch, float scale, const Gradients* gradients);
  Status run_backward(const Gradients& gradients);
  void count_load();
  std::string where_broken() const;

  Model model_;
  const PassOptions options_;
  WorkspaceMemory workspace_;
  PassMemory memory_;
  KvCache cache_;

  // Of the current batch.
  Workspace ws_;
  PassViews v_;
  std::vector<PageTable> pages_;
  std::vector<Segment> segments_;
  std::span<const int32_t> routing_;
  Batch batch_;

  int64_t hits_ = 0;
  std::vector<std::vector<int64_t>> load_;
  std::vector<float> highest_;
};

}  // namespace moebius
