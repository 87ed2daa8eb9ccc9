// RoutingLog: which rows of each layer's router the tokens of a forward pass chose, on the host, so that a
// training pass over the same tokens chooses them again (rollout-routing replay).
//
// What a token chooses follows from the tokens up to it. So it is kept by a hash of these, and found for
// whatever sequence begins with them, also where a cache of prefixes spared the work.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/tensor.h"
#include "models/config.h"

namespace moebius {

class RoutingLog {
 public:
  explicit RoutingLog(const ModelConfig& config);

  // Before a pass of n tokens; chosen() is the place for what its routers choose, as RouterArgs' chosen.
  void begin(int64_t n);
  Tensor chosen(int64_t layer) const;  // I32 [n, top_k]; of a layer with experts
  // After it: `count` rows of the pass from `begin` on are the last tokens of this sequence.
  void keep(std::span<const int32_t> sequence, int64_t begin, int64_t count);

  // Appends what each token of the sequence chose, [tokens, layers with experts, top_k]. False, and nothing
  // appended, when one has not been kept.
  bool read(std::span<const int32_t> sequence, std::vector<int32_t>& out) const;
  void clear() { kept_.clear(); }

 private:
  std::vector<int64_t> place_;  // [layer of the model]: number among those with experts
  int64_t layers_ = 0, top_k_ = 0, tokens_ = 0;
  std::vector<int32_t> pass_;  // [tokens, layers with experts, top_k]
  std::unordered_map<uint64_t, std::vector<int32_t>> kept_;
};

// Of [tokens, layers with experts, top_k] numbers, those of the layer-th layer with experts: I32 [tokens,
// top_k].
Tensor routing_of_layer(const int32_t* routing, int64_t tokens, int64_t layers, int64_t top_k, int64_t layer);

}  // namespace moebius
