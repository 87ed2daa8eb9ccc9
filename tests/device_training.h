// A golden model's adapters trained on a device, however its experts are shared out: for tests on the
// simulated device and on CUDA's.
#pragma once

#include "engine/expert_store.h"
#include "engine/train/device_training.h"
#include "tests/gradient_golden.h"

namespace moebius::test {

// A golden model's adapters as DeviceTraining takes them. Nothing is optimized.
class Adapters final : public Trained {
 public:
  explicit Adapters(Trainee& trainee) : trainee_(trainee) {}
  const Weights& weights() const override { return trainee_.weights; }
  const Gradients& gradients() const override { return trainee_.gradients; }
  std::span<const optim::NamedGradient> named_gradients() const override { return {}; }
  void zero_gradients() override {
    for (auto& [name, gradient] : trainee_.found) std::fill_n(gradient.f32(), gradient.numel(), 0.0f);
  }
  Status step(double, const TrainingPass&, ThreadPool&) override { return Status(); }
  std::vector<optim::StateEntry> entries() override { return {}; }

 private:
  Trainee& trainee_;
};

// How experts are shared out: what the device has room for, beside the least, and speeds that make experts
// stream, stay on the CPU, or both.
struct Sharing {
  const char* name;
  double experts;  // share of them that fits
  double link_GBs;
  double cpu_GFLOPs;
  bool park = false, head = true, overlap = true;
};
inline constexpr Sharing kSharings[] = {
    {"all_there", 2, 1, 1},
    {"half_on_the_cpu", 0.5, 1e-6, 1e3},
    {"half_streamed", 0.5, 1e3, 1e-6},
    {"all_streamed", 0, 1e3, 1e-6},
    {"mixed", 0.2, 1, 1, true, false},
    {"in_turn", 0.3, 1, 1, true, true, false},
};

inline MachineSpeeds speeds_of(const Sharing& s) { return {100, 1000, s.link_GBs, 10, s.cpu_GFLOPs, 1, 0}; }

struct OnDevice {
  std::unique_ptr<Backend> host, device;
  std::unique_ptr<DeviceTraining> training;
};

inline OnDevice on_device(const ModelConfig& config, Trained& trained, const Sharing& s, int64_t tokens,
                          const HostOptions& host, std::unique_ptr<Backend> device) {
  OnDevice d;
  d.host = make_host_backend(host);
  d.device = std::move(device);
  int64_t experts = 0;
  for (const LayerWeights& layer : trained.weights().layers)
    for (const ExpertWeights& e : layer.experts) experts += expert_bytes(e) + 2048;
  TrainingPlan plan;
  plan.park = s.park, plan.head_on_device = s.head, plan.ring_places = 4;
  DeviceTraining::Options how;
  how.pass.max_tokens = tokens, how.overlap = s.overlap, how.speeds = speeds_of(s);
  const double room = s.experts * static_cast<double>(experts);
  plan.resident_bytes = static_cast<int64_t>(room);
  how.memory = DeviceTraining::needed_bytes(config, trained.weights(), how.pass, plan) + plan.resident_bytes;
  auto training = DeviceTraining::create(config, trained, plan, how, *d.host, *d.device);
  MOEBIUS_CHECK(training.ok(), training.status().message());
  d.training = std::move(*training);
  return d;
}

inline HostOptions exact() {
  HostOptions options;
  options.threads = 2, options.exact_activations = true;
  return options;
}

// The golden's batch through a device: the loss; gradients are left in trainee.
inline double train_there(Trainee& trainee, const GradientGolden& golden, const Sharing& sharing,
                          const HostOptions& host, std::unique_ptr<Backend> device) {
  Adapters adapters(trainee);
  const OnDevice d =
      on_device(trainee.config(), adapters, sharing, std::ssize(golden.ids), host, std::move(device));
  const RotaryTable rotary = rotary_table(trainee.config().rotary);
  auto pass = TrainingPass::create(d.training->model(rotary), d.training->pass_options());
  MOEBIUS_CHECK(pass.ok(), pass.status().message());
  d.training->zero_gradients();
  const auto loss = (*pass)->accumulate(golden.batch(), 1, d.training->gradients());
  MOEBIUS_CHECK(loss.ok(), loss.status().message());
  const Status collected = d.training->collect_gradients();
  MOEBIUS_CHECK(collected.ok(), collected.message());
  return *loss;
}

}  // namespace moebius::test
