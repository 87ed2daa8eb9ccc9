// Greedy replies to many prompts, several of them at once in one pass over the weights.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moebius {

// As many at a time as the engine's options have sessions. A reply ends before a stop id, after max_tokens,
// or with the context. on_reply: in the order in which replies are done; prompts with no room for a token in
// the context are left out, and skipped counts them.
struct GreedyOptions {
  int64_t max_tokens = 0;
  std::function<void(size_t prompt, const std::string& reply)> on_reply;
};
Status greedy_replies(Engine& engine, std::span<const std::vector<int32_t>> prompts,
                      const GreedyOptions& options, int64_t* skipped);

}  // namespace moebius
