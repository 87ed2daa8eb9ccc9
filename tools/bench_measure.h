// Measures an opened model: prefill and decode, each as the median of several runs after a warm-up.
#pragma once

#include <functional>
#include <vector>

#include "engine/engine.h"

namespace moebius {

struct BenchWork {
  int64_t prompt = 512;  // tokens of a prefill; 0: none
  int64_t answer = 32;   // tokens decoded one by one; 0: none
  int64_t depth = 0;     // tokens in the context before the first of them
  int repeats = 3;
};

struct BenchTimes {
  std::vector<double> prefill_s;       // of each run, for all of the prompt
  std::vector<double> decode_token_s;  // of each run, mean over its tokens
};

// Tokens are random and all different, since equal ones would be routed to the same experts.
// keep_going: called between steps; false ends with kCancelled. kInvalid: more tokens than the context holds.
Result<BenchTimes> bench_model(Engine& engine, const BenchWork& work,
                               const std::function<bool()>& keep_going);

double median(std::vector<double> values);  // 0 of none

}  // namespace moebius
