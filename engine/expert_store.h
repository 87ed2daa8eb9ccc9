// ExpertStore: where each routed expert's weights are, the device memory of those that are resident, and how
// often each is used.
//
// Device and host split the same top-k list by the same table: an expert is elsewhere in exactly one of the
// two lists of its layer. The table changes only between steps, while the device is idle; which experts move
// is the business of engine/expert_moves.h.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "engine/expert_map.h"
#include "engine/expert_moves.h"
#include "engine/expert_use.h"
#include "engine/plan_layer.h"
#include "kernels/backend.h"
#include "models/weights.h"

namespace moebius {

// As many experts as fit `bytes`, the hottest first; of equal ones the lowest ids, layer by layer, so that
// without heat (all zeros) every layer has the same number. An expert comes with its adapters.
Residency hottest_first(const Weights& host, const ExpertHeat& heat, int64_t bytes);
ExpertHeat no_heat(const Weights& host);
// What an expert takes of the device's memory, with its adapters and their gradients.
int64_t expert_bytes(const ExpertWeights& expert);
int64_t expert_bytes(const Weights& host);       // all of them
int64_t largest_expert(const Weights& host);     // in bytes
double weights_of(const ExpertWeights& expert);  // numbers
bool has_adapter(const ExpertWeights& expert);

// A layer's experts, without tokens and as if all were in RAM; resident: those that are not elsewhere in
// on_device.
std::vector<ExpertLoad> expert_loads(const std::vector<ExpertWeights>& experts,
                                     const std::vector<ExpertWeights>& on_device);
// Adds the tokens that ids, I32 [n, k] on the host, give to each.
void add_tokens(const Tensor& ids, std::vector<ExpertLoad>& loads);

class ExpertStore {
 public:
  // host must outlive the store. placed: the weights of which steps run on the device; its experts become
  // those that are resident, with their adapters, and change with them. kNoMemory says what is missing.
  // heat: to begin with.
  // release: residents' bytes on the host may go to others.
  static Result<std::unique_ptr<ExpertStore>> create(const Weights& host, const Residency& residency,
                                                     ExpertHeat heat, bool release, Weights& placed,
                                                     Backend& backend);

  const std::vector<ExpertWeights>& on_device(int64_t layer) const;
  const std::vector<ExpertWeights>& on_host(int64_t layer) const { return at(layer).host; }
  bool any_on_host(int64_t layer) const { return at(layer).on_host > 0; }
  bool releases() const { return release_; }
  int64_t resident() const { return resident_; }  // experts of all layers
  int64_t total() const { return total_; }
  const ExpertHeat& heat() const { return heat_; }  // between steps

  // What one pass of the layer used: dense I32 [n, k] on the host, each -1 or an expert; the experts that the
  // host computed, and in how many nanoseconds. What neither the host nor the table has was streamed. From
  // any one thread, while nothing else but use() is called.
  void count(int64_t layer, const Tensor& ids, const std::vector<ExpertWeights>& on_host, int64_t host_ns);
  void count_streamed(int64_t layer, int64_t bytes) { at(layer).streamed_bytes += bytes; }
  // Nanoseconds, for Backend::end_timing: of the layer's shared and routed experts on the device, and of
  // routed ones on their way there.
  std::atomic<int64_t>& device_ns(int64_t layer) { return at(layer).device_ns; }
  std::atomic<int64_t>& link_ns(int64_t layer) { return at(layer).link_ns; }
  std::vector<LayerUse> use() const;  // [layer]; from any thread
  const ExpertMap& map() const { return map_; }

  // Brings what is on its way again, after an error of the device.
  void load_again();
  // Between steps: takes over experts that have arrived, and every kMoveSteps starts to move more.
  void next_step();

 private:
  struct Layer {
    std::vector<ExpertWeights> host;
    int64_t on_host = 0;
    std::atomic<int64_t> device_slots{0}, host_slots{0}, streamed_slots{0}, skipped_slots{0}, host_ns{0},
        device_ns{0}, link_ns{0}, moves{0}, moved_bytes{0}, streamed_bytes{0};
  };
  struct Arriving {
    ExpertMove move;
    ExpertWeights expert;  // at its place on the device
    Event event = {};
  };
  ExpertStore(const Weights& host, ExpertHeat heat, bool release, Weights& placed, Backend& backend)
      : host_(host),
        release_(release),
        placed_(placed),
        backend_(backend),
        heat_(std::move(heat)),
        map_(host) {}
  Layer& at(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const Layer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  Status place(const Residency& residency);
  void start(const ExpertMove& move);
  void load(Arriving& arriving, char* place);
  void finish(const Arriving& arrived);

  const Weights& host_;
  const bool release_;
  Weights& placed_;
  Backend& backend_;
  std::deque<Layer> layers_;
  Residency residency_;  // with what is arriving
  ExpertHeat heat_;
  ExpertMap map_;
  ExpertBytes bytes_;
  std::map<std::pair<size_t, size_t>, std::deque<Lora>> loras_;  // of experts on the device, by layer and id
  std::vector<Arriving> arriving_;
  int64_t resident_ = 0, total_ = 0, steps_ = 0;
  Buffer memory_;
};

}  // namespace moebius
