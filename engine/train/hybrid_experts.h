// HybridExperts: the routed experts of a model that is trained on a device, forward and backward: some are
// resident there with their adapters, the others on the host. Of these, layer by layer, plan_layer streams
// those that have enough tokens through a ring (engine/expert_ring.h) and leaves the rest to the CPU, which
// computes at the same time (engine/host_worker.h). The backward splits a layer as its forward did.
//
// Every expert is computed whole, by the same operation wherever it is, each slot's vectors are added in slot
// order and each adapter's gradients by whoever has the expert: the result is that of the host alone, bit by
// bit where the device computes as the host does.
#pragma once

#include <memory>
#include <optional>

#include "engine/expert_moves.h"
#include "engine/expert_ring.h"
#include "engine/forward.h"
#include "engine/host_worker.h"
#include "engine/plan_layer.h"

namespace moebius {

class HybridExperts final : public RoutedExperts {
 public:
  struct Options {
    int64_t max_tokens = 0;
    int64_t ring_places = 0;  // 0: nothing is streamed
    bool overlap = true;      // as HostWorker's
  };
  // Bytes of the device's memory for the ring.
  static int64_t bytes(const Weights& host, const Options& options);
  // host: all experts with their adapters. placed: the same, those that are not resident elsewhere. All that
  // is referred to must outlive this.
  static Result<std::unique_ptr<HybridExperts>> create(const ModelConfig& config, const Weights& host_weights,
                                                       const Weights& placed, const Options& options,
                                                       const MachineSpeeds& speeds, Backend& host,
                                                       Backend& device);

  void forward(const Model& model, int64_t layer, const Workspace& ws) override;
  void backward(const Model& model, int64_t layer, const Workspace& ws, const Tensor& dy,
                const Tensor& dweights) override;
  void finish() override;
  const Status& error() const override { return worker_->error(); }

  // Experts of all layers that the passes so far computed, by place.
  struct Counts {
    int64_t resident = 0, streamed = 0, cpu = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Mailbox {
    Tensor x, dy;              // [n, hidden]
    Tensor weights, dweights;  // [n, top_k]
    Tensor slots;              // [n, top_k, hidden]
  };
  struct Layer {
    Tensor ids;  // I32 [n, top_k], on the host
    LayerPlan plan;
    std::vector<ExpertWeights> on_host;    // what the CPU computes
    std::vector<ExpertWeights> been_here;  // all others, once the streamed ones have been on the device
    bool any_on_host = false;
  };
  HybridExperts(const ModelConfig& config, const Weights& host_weights, const Weights& placed,
                const Options& options, const MachineSpeeds& speeds, Backend& host, Backend& device)
      : config_(config),
        host_weights_(host_weights),
        placed_(placed),
        options_(options),
        speeds_(speeds),
        host_(host),
        device_(device) {}
  Mailbox mailbox(int64_t n) const;
  const std::vector<ExpertWeights>& resident(int64_t layer) const {
    return placed_.layers[static_cast<size_t>(layer)].experts;
  }
  Layer& at(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  bool route(int64_t layer, const Workspace& ws);
  void split(int64_t layer);
  // compute(experts) for the residents, and for each group of streamed ones.
  template <class Compute>
  void compute_here(int64_t layer, bool gradients, const Compute& compute);

  const ModelConfig& config_;
  const Weights& host_weights_;
  const Weights& placed_;
  const Options options_;
  const MachineSpeeds speeds_;
  Backend& host_;
  Backend& device_;
  std::vector<Layer> layers_;
  std::optional<ExpertRing> ring_;
  Buffer ids_memory_, mail_memory_;  // pinned
  QueuedExperts queued_;             // until the next sync
  Counts counts_;
  std::unique_ptr<HostWorker> worker_;  // the first to end
};

}  // namespace moebius
