// Which optimizer trains which tensor, and the one tensor that no gradient reaches.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "kernels/status.h"
#include "models/weights.h"

namespace moebius::optim {

enum class Rule : uint8_t {
  kMuon,     // hidden matrices: attention, dense, shared and routed experts, router
  kAdamW,    // embedding and head
  kAdamW1D,  // norms and biases: AdamW without decay
  kBalance,  // e_score_correction_bias: balance_bias after each step
};

// role: of a matrix as visit_weights names it; nothing for a vector. kInvalid for a shape that is neither a
// matrix nor a vector: stacked experts are to be passed one by one, for each is orthogonalised on its own.
Result<Rule> rule_of(std::string_view name, std::optional<Role> role, std::span<const int64_t> shape);

// bias[e] += gamma * sign(mean load - load[e]) (DeepSeek-V3, arXiv 2412.19437): load[e] = tokens routed to e
// in the batch, at least 0. Spans of one length.
void balance_bias(std::span<const int64_t> load, float gamma, std::span<float> bias);

}  // namespace moebius::optim
