// TrainingPass: the loss of whole sequences and its gradients, one micro-batch at a time.
//
// Activation checkpointing: the forward keeps each layer's input and routing, and what attention computed in
// the last layers, as far as kept_bytes reach; the backward runs the rest of a layer again, then its mirror
// (engine/backward.h). What is kept changes no bit of a result. Sequences lie one after another in the rows
// of a batch and never see each other; nothing is padded. Sums are bit-equal for any number of threads.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/backward.h"

namespace moebius {

struct TrainBatch {
  std::span<const int32_t> ids;      // [n], each in [0, vocab)
  std::span<const int32_t> targets;  // [n]: the id to predict at a row, or -1: no loss there
  std::span<const float> weights;    // [n], of the rows' losses; empty: all 1
  std::span<const int64_t> starts;   // ascending from 0 to n: sequence i is rows [starts[i], starts[i + 1])
};

class TrainingPass {
 public:
  static constexpr int64_t kKeptBytes = int64_t{256} << 20;

  // max_tokens: rows of the largest micro-batch. Everything in model must outlive the pass.
  static Result<std::unique_ptr<TrainingPass>> create(const Model& model, int64_t max_tokens,
                                                      int64_t kept_bytes = kKeptBytes);
  // In how many layers, the last ones, attention is kept.
  static int64_t layers_kept(const ModelConfig& config, int64_t max_tokens, int64_t kept_bytes = kKeptBytes);

  // The sum over rows of weight * -log p(target). kNoMemory as it arises; kInvalid when a loss is not finite.
  Result<double> evaluate(const TrainBatch& batch);
  // The same, and adds `scale` times its gradients to gradients (shaped as the model's weights) and to those
  // of adapters; and the gradients of a balance loss. Weights may be negative here: with advantages it is
  // the gradient of a policy.
  Result<double> accumulate(const TrainBatch& batch, float scale, const Gradients& gradients,
                            const BalanceLoss& balance = {});
  // -log p(target) of each row, 0 where there is none.
  Result<std::vector<float>> losses(const TrainBatch& batch);
  // The experts of the last batch's tokens in a layer, I32 [n, top_k], -1 where none was to compute; empty in
  // a dense layer.
  const Tensor& expert_ids(int64_t layer) const { return saved_[static_cast<size_t>(layer)].ids; }

  int64_t hits() const { return hits_; }  // of the last batch: rows whose target no id was likelier than
  // Of the batches since the last reset: how many tokens chose each row of a layer's router, empty for a
  // dense layer; and the largest scale * q . key of each head, [layers, heads] (only of batches with
  // gradients).
  const std::vector<std::vector<int64_t>>& load() const { return load_; }
  std::span<const float> highest_logits() const { return highest_; }
  void reset_statistics();

 private:
  TrainingPass(const Model& model, int64_t max_tokens, int64_t kept_bytes, WorkspaceMemory workspace);
  void lay_out(int64_t n, Arena& arena);
  Status begin(const TrainBatch& batch);
  Workspace layer_workspace(int64_t layer) const;
  void run_forward();
  Result<double> run_head(const TrainBatch& batch, float scale, const Gradients* gradients);
  void run_backward(const Gradients& gradients);
  void count_load(int64_t layer);

  // What is kept of each layer, and what the head works on.
  struct Saved {
    Tensor x;                     // [n, hidden], its input
    Tensor ids, weights, chosen;  // [n, top_k], its routing
    Tensor after_attention;       // [n, hidden]; empty: attention is run again
    AttentionActivations attention;
  };
  struct HeadWorkspace {
    Tensor rows;                    // I32 [m], the rows with a target
    Tensor x, h, dh, dx;            // [m, hidden]
    Tensor logits;                  // [m, vocab]
    Tensor targets, weights, loss;  // [m]
  };

  Model model_;
  int64_t max_tokens_, first_kept_;  // the first layer whose attention is kept
  WorkspaceMemory workspace_;
  Buffer memory_;  // of saved_, bw_ and the head
  KvCache cache_;
  int64_t cache_tokens_ = 0;

  // Of the current batch.
  Workspace ws_;
  BackwardWorkspace bw_;
  std::vector<Saved> saved_;
  HeadWorkspace head_;
  std::vector<PageTable> pages_;
  std::vector<Segment> segments_;
  Batch batch_;

  int64_t hits_ = 0;
  std::vector<std::vector<int64_t>> load_;
  std::vector<float> highest_;
};

}  // namespace moebius
