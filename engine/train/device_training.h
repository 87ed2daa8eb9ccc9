// DeviceTraining: an adapter that is trained on a device, on a model that may be larger than its memory.
//
// On the device: what every token reads, with its adapters; the routed experts that the plan wants, with
// theirs; the others pass through a ring or stay the CPU's (engine/train/hybrid_experts.h). The optimizer and
// the momenta are the host's, which has a copy of every adapter: gradients come to it before a step, numbers
// go back after it, each in one piece. So checkpoints do not know where anything was.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "engine/train/hybrid_experts.h"
#include "engine/train/pass_memory.h"
#include "engine/train/trained.h"
#include "engine/train/training_plan.h"

namespace moebius {

class DeviceTraining final : public Trained {
 public:
  struct Options {
    int64_t memory = 0;  // of the device, in bytes; at least least_bytes()
    PassOptions pass;    // without park
    bool overlap = true;
    MachineSpeeds speeds;
  };
  // The least memory of a device with which it takes part.
  static int64_t least_bytes(const ModelConfig& config, const Weights& adapted, const PassOptions& pass);
  // What a plan needs beside resident experts.
  static int64_t needed_bytes(const ModelConfig& config, const Weights& adapted, const PassOptions& pass,
                              const TrainingPlan& plan);

  // As far as memory holds it, what the plan says. All that is referred to must outlive it. kNoMemory, kIo.
  static Result<std::unique_ptr<DeviceTraining>> create(const ModelConfig& config, Trained& trained,
                                                        const TrainingPlan& plan, const Options& options,
                                                        Backend& host, Backend& device);

  // To be trained, with a pass of these options.
  Model model(const RotaryTable& rotary) const;
  const PassOptions& pass_options() const { return pass_; }
  std::string describe() const;                                    // a line: what lies where
  const HybridExperts* experts() const { return experts_.get(); }  // null: a model without experts

  const Weights& weights() const override { return placed_; }
  const Gradients& gradients() const override { return trained_.gradients(); }
  std::span<const optim::NamedGradient> named_gradients() const override {
    return trained_.named_gradients();
  }
  void zero_gradients() override;
  Status collect_gradients() override;
  Status step(double lr, const TrainingPass& statistics, ThreadPool& pool) override;
  std::vector<optim::StateEntry> entries() override { return trained_.entries(); }
  Status refresh() override;

 private:
  // An adapter here and at home.
  struct Twin {
    const Lora* home;
    Lora here;
    Matrix matrix;   // at home; where the adapter is merged, its data changes with every step
    Matrix* placed;  // here
  };
  DeviceTraining(const ModelConfig& config, Trained& trained, Backend& host, Backend& device)
      : config_(config), trained_(trained), host_(host), device_(device), placed_(trained.weights()) {}
  std::vector<ExpertWeights*> choose_residents(int64_t bytes);
  Status place(int64_t bytes_for_residents);
  Status place_adapters();
  static void lay_out(const Twin& twin, Arena& arena, Tensor& a, Tensor& b);
  template <class Copy>
  void for_each_staged(const Copy& copy);
  Status send();

  const ModelConfig& config_;
  Trained& trained_;  // with adapters on frozen weights
  Backend& host_;
  Backend& device_;
  Weights placed_;
  PassOptions pass_;
  bool head_ = false;
  int64_t resident_ = 0, total_ = 0, ring_places_ = 0;
  int64_t block_bytes_ = 0;                              // of values_, gradients_ and staged_ each
  Buffer weights_memory_, values_, gradients_, staged_;  // staged_: pinned
  std::deque<Twin> twins_;                               // matrices of placed_ point at their adapters
  std::unique_ptr<HybridExperts> experts_;               // null: a model without experts
};

}  // namespace moebius
