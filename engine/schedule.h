// The scheduler's decisions, as pure functions of what it knows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moebius {

// A request of which further answers wait to be begun.
struct WaitingFacts {
  int priority = 0;
  int64_t overtaken = 0;  // times that a later request was begun before it
  int64_t running = 0;    // answers of it that are on their way
  uint64_t arrival = 0;
};

// A request that is overtaken so many times goes up by one priority, so that none waits for ever.
inline constexpr int64_t kPatience = 4;

// In which order they get free places: by priority, then those with fewer answers on their way, then as they
// came.
std::vector<size_t> order_of_waiting(std::span<const WaitingFacts> waiting);

// A prompt that is not computed to its end.
struct PromptFacts {
  int64_t rest = 0;  // tokens to compute
  uint64_t arrival = 0;
};

// Whose turn it is, one of them at least: that with the least to do, and at every second turn the oldest, so
// that a short prompt does not wait for a long one, nor a long one for ever.
size_t pick_prompt(std::span<const PromptFacts> prompts, uint64_t turn);

// The pages that a request takes at most. A prompt of several answers is held once for all of them, and each
// answer has the pages after the last one that it shares.
struct PageNeeds {
  int64_t prompt = 0, answer = 0;
};
PageNeeds page_needs(int64_t prompt_tokens, int64_t answer_tokens, int n);

}  // namespace moebius
