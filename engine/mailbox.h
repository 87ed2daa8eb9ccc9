// What passes between device and CPU for routed experts, in bytes: for those who make the mailbox of
// ColdExperts, and for plans.
#pragma once

#include "models/config.h"

namespace moebius {

// Of a token's hidden state, as an expert reads and writes it.
inline int64_t vector_bytes(const ModelConfig& config) {
  return config.hidden * static_cast<int64_t>(sizeof(float));
}

// For x and slots of so many tokens, and the ids of their experts.
inline int64_t mailbox_bytes(const ModelConfig& config, int64_t tokens) {
  const int64_t slots = tokens * config.moe.top_k, alignment = 3 * 64;
  return (tokens * config.hidden + slots + slots * config.hidden + alignment) *
         static_cast<int64_t>(sizeof(float));
}

}  // namespace moebius
