#include "engine/expert_map.h"

#include "kernels/mapped.h"

namespace moebius {

namespace {

// Of the whole expert a part that is read together with the rest.
bool on_disk(const ExpertWeights& expert) {
  const Matrix& gate = expert.gate;
  return gate.data != nullptr && !in_memory(gate.data, static_cast<size_t>(gate.rows * gate.row_bytes()));
}

}  // namespace

ExpertMap::ExpertMap(const Weights& weights) {
  for (const LayerWeights& layer : weights.layers)
    layers_.emplace_back().experts.resize(layer.experts.size());
}

void ExpertMap::count(int64_t layer, const Tensor& ids) {
  Layer& at = layers_[static_cast<size_t>(layer)];
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.i32()[i];
    std::atomic<int64_t>& counter = id < 0 ? at.skipped : at.experts[static_cast<size_t>(id)].chosen;
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
}

void ExpertMap::put(int64_t layer, int64_t expert, bool on_device) {
  layers_[static_cast<size_t>(layer)].experts[static_cast<size_t>(expert)].on_device = on_device;
}

std::vector<ExpertLayer> ExpertMap::read(const Weights& host, const DiskTier* disk) const {
  std::vector<ExpertLayer> out;
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].experts.empty()) continue;
    ExpertLayer layer;
    layer.layer = static_cast<int64_t>(l);
    layer.skipped = layers_[l].skipped.load(std::memory_order_relaxed);
    const auto held = [&](size_t e) { return disk && disk->in_cache(layer.layer, static_cast<int64_t>(e)); };
    for (size_t e = 0; e < layers_[l].experts.size(); ++e) {
      const Expert& expert = layers_[l].experts[e];
      layer.chosen.push_back(expert.chosen.load(std::memory_order_relaxed));
      layer.places.push_back(expert.on_device                                 ? ExpertPlace::kDevice
                             : !held(e) && on_disk(host.layers[l].experts[e]) ? ExpertPlace::kDisk
                                                                              : ExpertPlace::kHost);
    }
    out.push_back(std::move(layer));
  }
  return out;
}

}  // namespace moebius
