// DiskTier: experts that are in no memory, but only in the mapped files. Whoever reads them gets them from
// the page cache or waits for the disk; what is done here is to ask for them early: all of a layer that were
// chosen, before the first is computed, and for the next layer (after the last, the first) those that its
// last tokens chose, since the next token often chooses them again (MoE-Infinity, arXiv 2401.14361,
// prefetches by such traces). What stays in memory is the system's choice, which sees what is used.
#pragma once

#include <cstdint>
#include <vector>

#include "models/weights.h"

namespace moebius {

class DiskTier {
 public:
  explicit DiskTier(const Weights& host) : last_(host.layers.size()), host_(host) {}

  // ids I32 [n, k] on the host, each -1 or an expert of the layer: they are computed next. here: experts as
  // this side has them; those elsewhere are left out. From one thread at a time.
  void chosen(int64_t layer, const Tensor& ids, const std::vector<ExpertWeights>& here);

 private:
  std::vector<std::vector<int32_t>> last_;  // [layer]: distinct, of the last few tokens
  const Weights& host_;
};

// An expert's bytes in the mapped file: will be read, or will not be for long.
void will_need(const ExpertWeights& expert);
void give_up(const ExpertWeights& expert);

}  // namespace moebius
