#include "engine/schedule.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "engine/kv_cache.h"

namespace moebius {

std::vector<size_t> order_of_waiting(std::span<const WaitingFacts> waiting) {
  std::vector<size_t> order(waiting.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t i) {
    const WaitingFacts& w = waiting[i];
    return std::tuple(-(w.priority + w.overtaken / kPatience), w.running, w.arrival);
  };
  std::ranges::sort(order, [&](size_t a, size_t b) { return key(a) < key(b); });
  return order;
}

size_t pick_prompt(std::span<const PromptFacts> prompts, uint64_t turn) {
  const auto key = [&](const PromptFacts& p) {
    return std::pair(turn % 2 == 0 ? p.rest : int64_t{0}, p.arrival);
  };
  const auto best = std::ranges::min_element(
      prompts, [&](const PromptFacts& a, const PromptFacts& b) { return key(a) < key(b); });
  return static_cast<size_t>(best - prompts.begin());
}

// The last token of an answer is never put on the timeline.
PageNeeds page_needs(int64_t prompt_tokens, int64_t answer_tokens, int n) {
  const int64_t all = pages_of(prompt_tokens + std::max<int64_t>(0, answer_tokens - 1));
  if (n == 1) return {0, all};
  return {pages_of(prompt_tokens), all - prompt_tokens / kPageTokens};
}

}  // namespace moebius
