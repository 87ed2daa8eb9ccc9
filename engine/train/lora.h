// LoraModel: adapters trained on frozen weights of any format.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "engine/adapted_weights.h"
#include "engine/optim/lora_muon.h"
#include "engine/optim/optimizer.h"
#include "engine/train/trained.h"

namespace moebius {

// kMuon: each factor on its own, with Moonlight's scale. kLoraMuon: the spectral rule on the product, whose
// step has the spectral norm that Muon would give the whole matrix, 0.2 lr sqrt(max(rows, cols)).
enum class LoraOptimizer : uint8_t { kMuon, kLoraMuon, kAdamW };

struct LoraOptions {
  int64_t rank = 16;
  double alpha = 32;                 // the adapter counts alpha / rank times
  std::vector<std::string> targets;  // see lora_target_words; empty: every matrix but router and head
  LoraOptimizer optimizer = LoraOptimizer::kMuon;
  double decay = 0;
  uint64_t seed = 0;  // of the first A; B starts as zero
};

// The words that name groups of matrices (q, kv, o, experts, shared, dense, router); any last part of a
// module's name, such as gate_proj, is a target too.
std::vector<std::string> lora_target_words();
// Every matrix that a target names, in the order of visit_weights. kInvalid: as LoraModel::create.
Status visit_targets(
    const ModelConfig& config, const LoraOptions& options,
    const std::function<void(const std::string& name, Role role, int64_t rows, int64_t cols)>& visit);

class LoraModel final : public Trained {
 public:
  // Fresh adapters on every matrix that a target names. kInvalid: an unknown target or one that matches
  // nothing, a rank above the smaller side of a matrix, options out of range.
  static Result<std::unique_ptr<LoraModel>> create(const ModelConfig& config, const Weights& base,
                                                   const LoraOptions& options);

  const Weights& weights() const override { return adapted_->weights(); }
  const Gradients& gradients() const override { return gradients_; }
  std::span<const optim::NamedGradient> named_gradients() const override { return named_; }
  void zero_gradients() override;
  Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) override;
  std::vector<optim::StateEntry> entries() override;
  Status refresh() override {
    adapted_->merge_again();
    return Status();
  }

  // Takes over the factors of another adapter on the same matrices; kInvalid: on others. The optimizer's
  // state stays.
  Status start_from(const LoraModel& other);

  std::vector<const AdapterFactors*> factors() const;  // as they are trained, of every adapted matrix
  int64_t parameters() const;

 private:
  struct States {
    optim::ParameterState a, b;  // kLoraMuon: one for both, in a
  };
  LoraModel(const LoraOptions& options, std::unique_ptr<AdaptedWeights> adapted)
      : options_(options), adapted_(std::move(adapted)) {}
  void list_factors();

  LoraOptions options_;
  std::unique_ptr<AdaptedWeights> adapted_;
  Gradients gradients_;         // all frozen
  std::vector<States> states_;  // one for each adapted matrix
  std::vector<optim::NamedGradient> named_;
  std::vector<optim::Parameter> factors_;                       // but for kLoraMuon, else
  std::map<double, std::vector<optim::LoraFactors>> products_;  // by the norm of a step at learning rate 1
};

}  // namespace moebius
