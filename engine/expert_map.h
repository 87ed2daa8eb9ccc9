// ExpertMap: of every routed expert, how often it was chosen and where it is, for people to look at while the
// engine works. One thread writes at a time; any may read.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "engine/disk_tier.h"
#include "engine/expert_use.h"
#include "models/weights.h"

namespace moebius {

class ExpertMap {
 public:
  // All on the host. weights: their layers' experts.
  explicit ExpertMap(const Weights& weights);

  void count(int64_t layer, const Tensor& ids);  // I32 [n, k] on the host, each -1 or an expert of the layer
  void put(int64_t layer, int64_t expert, bool on_device);
  // Layers with experts. host: where experts of the host lie; those of a mapped file that are in no memory
  // are on disk. disk: what holds some; null: nothing does.
  std::vector<ExpertLayer> read(const Weights& host, const DiskTier* disk) const;

 private:
  struct Expert {
    std::atomic<int64_t> chosen = 0;
    std::atomic<bool> on_device = false;
  };
  struct Layer {
    std::deque<Expert> experts;
    std::atomic<int64_t> skipped = 0;
  };
  std::deque<Layer> layers_;
};

}  // namespace moebius
