// What a mailbox of ColdExperts takes of pinned memory: for those who make it, and for plans.
#pragma once

#include "models/config.h"

namespace moebius {

// For x and slots of so many tokens, and the ids of their experts.
inline int64_t mailbox_bytes(const ModelConfig& config, int64_t tokens) {
  const int64_t slots = tokens * config.moe.top_k, alignment = 3 * 64;
  return (tokens * config.hidden + slots + slots * config.hidden + alignment) *
         static_cast<int64_t>(sizeof(float));
}

}  // namespace moebius
