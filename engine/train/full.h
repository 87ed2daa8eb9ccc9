// FullModel: a model whose every weight is trained, in float32 memory of its own.
#pragma once

#include <memory>
#include <optional>

#include "engine/optim/assignment.h"
#include "engine/optim/optimizer.h"
#include "engine/train/trained.h"

namespace moebius {

struct FullOptions {
  optim::Recipe matrices = optim::muon();  // of hidden matrices, each expert's on its own
  optim::Recipe embeddings = optim::adamw();
  optim::Recipe vectors = optim::adamw(0);
  double balance_gamma = 1e-3;  // of the selection bias (DeepSeek-V3); 0: left alone
  double qk_clip = 0;           // tau of QK-Clip; 0: off
  uint64_t seed = 0;            // of the initial weights
};

class FullModel final : public Trained {
 public:
  // Initial weights: matrices N(0, 1 / (3 cols)), those that write to the residual stream (o, down) divided
  // by sqrt(2 layers), embeddings N(0, 0.02^2), norms 1, biases 0.
  static Result<std::unique_ptr<FullModel>> random(const ModelConfig& config, const FullOptions& options,
                                                   Backend& backend);

  // In place of the initial weights: those of a checkpoint of the same configuration, in any format.
  Status start_from(const Weights& weights);

  const Weights& weights() const override { return weights_; }
  const Gradients& gradients() const override { return gradients_; }
  std::span<const optim::NamedGradient> named_gradients() const override { return named_; }
  void zero_gradients() override;
  Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) override;
  std::vector<optim::StateEntry> entries() override;

  // Writes config.json's weights to dir/model.safetensors as BF16 (float32 where the selection bias is), the
  // form other readers expect; atomically.
  Status write_weights(const std::string& path) const;

  const std::vector<std::string>& notes() const { return notes_; }  // QK-Clip not applicable, ...
  int64_t clipped_heads() const { return clipped_heads_; }          // in the last step

 private:
  struct Entry {
    std::string name;  // of the tensor in the file
    optim::Rule rule;
    Role role;  // of a matrix
    optim::MatrixView weight, gradient;
    bool vector;
    optim::ParameterState state;
  };
  FullModel(const ModelConfig& config, const FullOptions& options) : config_(config), options_(options) {}
  Status lay_out(Backend& backend);
  void initialise();
  const optim::Recipe& recipe(optim::Rule rule) const;
  Status clip_heads(std::span<const float> highest);

  ModelConfig config_;
  FullOptions options_;
  Weights weights_;
  Gradients gradients_;
  Buffer values_, gradient_values_;
  std::vector<Entry> entries_;
  std::vector<optim::NamedGradient> named_;
  std::vector<std::string> notes_;
  int64_t clipped_heads_ = 0;
};

}  // namespace moebius
