// Scores for `moebius eval`: which tokens a window scores, and what two models' logits say of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/status.h"

namespace moebius {

// One pass of the model: tokens [begin, end) of the text, of which [scored, end) count.
struct Window {
  int64_t begin = 0, end = 0, scored = 0;
};

// Windows of at most `size` tokens whose starts are `stride` apart; a token is scored by the first window
// that reaches it, and only if a token stands before it there (prefixed: a special token always does). size
// >= 2 unless prefixed, 1 <= stride <= size.
std::vector<Window> plan_windows(int64_t tokens, int64_t size, int64_t stride, bool prefixed);

// -ln of the probability that softmax(logits) gives to id, in double; kInvalid if the logits are not finite.
Result<double> token_nats(std::span<const float> logits, int32_t id);

// Kullback-Leibler divergence of softmax(model) from softmax(reference), in nats, and whether the most likely
// token is the same.
struct Comparison {
  double divergence = 0;
  bool same_top = false;
};
Result<Comparison> compare_rows(std::span<const float> reference, std::span<const float> model);

struct Distribution {
  double mean = 0, median = 0, p99 = 0, max = 0;
};
Distribution summarize(
    std::vector<double> values);  // at least one; quantiles interpolate linearly between ranks

}  // namespace moebius
