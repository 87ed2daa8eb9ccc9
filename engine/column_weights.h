// How much each column of each matrix matters: mean squares of the inputs that it gets on a text.
#pragma once

#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "models/weights.h"

namespace moebius {

// [cols] mean squares, by the address of the matrix's data. A matrix that is not there weighs all columns
// alike.
using ColumnWeights = std::unordered_map<const void*, std::vector<float>>;

struct ColumnWeightsOptions {
  int threads = 1;
  // Pieces of work done and in total; false cancels (kCancelled).
  std::function<bool(int64_t done, int64_t total)> progress;
};

// A forward pass of the sequences on the host, each from its beginning, that keeps sums per column and
// nothing per token. A routed expert's inputs are those of the tokens routed to it; few inputs (an expert
// that the text hardly needs) are drawn towards columns that weigh alike. kInvalid: an id that is not in the
// vocabulary; kNoMemory.
Result<ColumnWeights> column_weights(const ModelFiles& model, std::span<const std::vector<int32_t>> sequences,
                                     const ColumnWeightsOptions& options);

}  // namespace moebius
