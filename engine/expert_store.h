// ExpertStore: where each routed expert's weights are, the device memory of those that are resident, and how
// often each is used.
//
// Device and host split the same top-k list by the same table: an expert is elsewhere in exactly one of the
// two lists of its layer. The table changes only between steps, while the device is idle; which experts move
// is the business of engine/expert_moves.h.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "engine/expert_moves.h"
#include "engine/expert_use.h"
#include "kernels/backend.h"
#include "models/weights.h"

namespace moebius {

// As many experts as fit `bytes`, the same number in every layer as far as they go, lowest ids first. Experts
// with an adapter stay on the host.
Residency spread_evenly(const ModelConfig& config, const Weights& host, int64_t bytes);
// What an expert takes of the device's memory.
int64_t expert_bytes(const ExpertWeights& expert);
int64_t expert_bytes(const Weights& host);  // all of them

class ExpertStore {
 public:
  // host must outlive the store. placed: the weights of which steps run on the device; its experts become
  // those that are resident, and change with them. kNoMemory says what is missing. No
  // resident expert may have an adapter.
  static Result<std::unique_ptr<ExpertStore>> create(const Weights& host, const Residency& residency,
                                                     Weights& placed, Backend& backend);

  const std::vector<ExpertWeights>& on_device(int64_t layer) const;
  const std::vector<ExpertWeights>& on_host(int64_t layer) const { return at(layer).host; }
  bool any_on_host(int64_t layer) const { return at(layer).on_host > 0; }
  int64_t resident() const { return resident_; }  // experts of all layers
  int64_t total() const { return total_; }

  // What one pass of the layer used: dense I32 [n, k] on the host, each -1 or an expert; nanoseconds of the
  // host's part. From any one thread, while nothing else but use() is called.
  void count(int64_t layer, const Tensor& ids, int64_t host_ns);
  std::vector<LayerUse> use() const;  // [layer]; from any thread

  // Between steps: takes over experts that have arrived, and every kMoveSteps starts to move more.
  void next_step();

 private:
  struct Layer {
    std::vector<ExpertWeights> host;
    int64_t on_host = 0;
    std::atomic<int64_t> device_slots{0}, host_slots{0}, host_ns{0}, moves{0}, moved_bytes{0};
  };
  struct Arriving {
    ExpertMove move;
    ExpertWeights expert;  // at its place on the device
    Event event;
  };
  ExpertStore(const Weights& host, Weights& placed, Backend& backend)
      : host_(host), placed_(placed), backend_(backend) {}
  Layer& at(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const Layer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  Status place(const Residency& residency);
  void start(const ExpertMove& move);
  void finish(const Arriving& arrived);

  const Weights& host_;
  Weights& placed_;
  Backend& backend_;
  std::deque<Layer> layers_;
  Residency residency_;  // with what is arriving
  ExpertHeat heat_;
  ExpertBytes bytes_;
  std::vector<Arriving> arriving_;
  int64_t resident_ = 0, total_ = 0, steps_ = 0;
  Buffer memory_;
};

}  // namespace moebius
