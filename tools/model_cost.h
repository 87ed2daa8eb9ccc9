// What a model weighs and what a token costs, counted from its tensors as they lie in the files.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "models/weights.h"

namespace moebius {

inline constexpr int kRoles = 7;
const char* role_name(Role role);

struct RoleCost {
  int64_t matrices = 0, weights = 0, bytes = 0;
  std::map<std::string, int64_t> formats;  // name -> bytes
};

struct ModelCost {
  std::array<RoleCost, kRoles> roles;  // by Role
  int64_t vector_numbers = 0;          // norms and biases, held as float32
  int64_t weights = 0, bytes = 0;      // of all matrices

  // Read once per decoded token: attention, dense and shared feed-forward, router, top_k experts of average
  // size, the head (the embedding when tied) and one row of the embedding.
  int64_t active_weights = 0, active_bytes = 0;
  int64_t head_weights = 0;           // of the active ones
  int64_t cache_bytes_per_token = 0;  // all layers, in the given type
};

// The experts' format when there are experts, else that of the attention: what `quant` of a bench means.
Format main_format(const Weights& weights);

ModelCost model_cost(const ModelConfig& config, const Weights& weights, DType cache_type);

}  // namespace moebius
