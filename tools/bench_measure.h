// Measures an opened model: prefill and decode, each row beside the machine's limits probed around it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moebius {

struct BenchWork {
  std::vector<int64_t> prompts = {128, 512, 2048};  // tokens of a prefill; none: empty
  std::vector<int64_t> depths = {0, 2048, 8192};    // tokens in the context when the last token is decoded
  std::vector<int64_t> batches = {1, 4, 8};         // sequences decoded together
  int64_t tokens = 16;                              // decoded by each of them; 0: none
  int repeats = 3;
  double seconds = 15;  // after which a row is not repeated again

  int64_t most_batch() const;
  int64_t needed_context() const;
};

struct Limits {
  double read_GBs = 0;         // of memory where the weights lie
  double large_pages_GBs = 0;  // of a buffer in large pages
  double float32_GFLOPs = 0, int8_GOPs = 0;
};

struct BenchRow {
  bool decode = false;
  int64_t tokens = 0, depth = 0, batch = 1;  // tokens: of each sequence
  std::vector<double> runs_s;                // each run, for all tokens
  double bytes = 0;                          // of weights and caches, a run; of experts those really chosen
  double disk_bytes = 0;                     // brought from disk, of all runs
  double skipped = 0;                        // share of the experts' slots that nobody had to compute
  OpTotals ops;                              // of all runs
  double resident_GB = 0;                    // at its end
  std::vector<Limits> limits;                // before the first run, between runs and after the last
};

// Rows in order: prefills, then decoding by depth and batch. Tokens are random and differ from sequence to
// sequence, since equal ones would be routed to the same experts; a context is a short prompt that is
// repeated. A depth ends at the context's end where it fills it. keep_going: called between steps; false ends
// with kCancelled. kInvalid: more tokens than the context holds.
Result<std::vector<BenchRow>> bench_model(Engine& engine, const BenchWork& work,
                                          const std::function<bool()>& keep_going);

}  // namespace moebius
