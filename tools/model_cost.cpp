#include "tools/model_cost.h"

#include <algorithm>

namespace moebius {

const char* role_name(Role role) {
  switch (role) {
    case Role::kEmbed:
      return "embedding";
    case Role::kHead:
      return "head";
    case Role::kAttention:
      return "attention";
    case Role::kDense:
      return "dense layers";
    case Role::kShared:
      return "shared experts";
    case Role::kExpert:
      return "routed experts";
    case Role::kRouter:
      return "router";
  }
  return "";
}

Format main_format(const Weights& weights) {
  for (const LayerWeights& layer : weights.layers) {
    if (!layer.experts.empty()) return layer.experts.front().gate.format;
  }
  return weights.layers.front().o.format;
}

ModelCost model_cost(const ModelConfig& config, const Weights& weights, DType cache_type) {
  ModelCost cost;
  Weights views = weights;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string&, Role role, int64_t rows, int64_t cols, Matrix& w) {
    RoleCost& r = cost.roles[static_cast<size_t>(role)];
    ++r.matrices;
    r.weights += rows * cols;
    r.bytes += w.bytes();
    r.formats[format_name(w.format)] += w.bytes();
    return Status();
  };
  visitor.vector = [&](const std::string&, int64_t size, Tensor&) {
    cost.vector_numbers += size;
    return Status();
  };
  MOEBIUS_CHECK(visit_weights(config, views, visitor).ok());

  for (const RoleCost& r : cost.roles) cost.weights += r.weights, cost.bytes += r.bytes;
  for (const Role role : {Role::kAttention, Role::kDense, Role::kShared, Role::kRouter}) {
    cost.active_weights += cost.roles[static_cast<size_t>(role)].weights;
    cost.active_bytes += cost.roles[static_cast<size_t>(role)].bytes;
  }
  if (config.moe.n_experts > 0) {  // a router picks zero experts too, but how often is not in the file
    const RoleCost& experts = cost.roles[static_cast<size_t>(Role::kExpert)];
    const int64_t top_k = std::min(config.moe.top_k, config.moe.n_experts);
    cost.active_weights += experts.weights / config.moe.n_experts * top_k;
    cost.active_bytes += experts.bytes / config.moe.n_experts * top_k;
  }
  cost.head_weights = weights.head.rows * weights.head.cols;
  cost.active_weights += cost.head_weights;
  cost.active_bytes += weights.head.bytes() + weights.embed.row_bytes();
  cost.cache_bytes_per_token = cache_row_bytes(cache_type, config.cache_width()) * config.layers;
  return cost;
}

}  // namespace moebius
