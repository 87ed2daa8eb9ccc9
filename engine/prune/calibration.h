// Calibration: the forward pass of a text, layer by layer, that scores experts and neurons on its way.
//
// All tokens of a pass go through one layer before any goes through the next, each expert computes all of its
// tokens at once, and of these only sums stay: memory is bounded, whatever the model's and the text's size.
// The routed outputs are those of forward(): bit for bit for integer formats.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/prune/scores.h"

namespace moebius {

struct CalibrationOptions {
  int threads = 0;                 // 0: one per physical core
  int64_t pass_bytes = 256 << 20;  // of the slots of a pass, which sets how many tokens it has
  // Pieces of work done and in total; false cancels (kCancelled).
  std::function<bool(int64_t done, int64_t total)> progress;
};

// Scores of the text's tokens, each sequence from its beginning. kInvalid: a model without routed experts or
// with experts of unequal width, ids out of range; kNoMemory.
Result<PruneScores> calibrate(const ModelFiles& model, std::span<const std::vector<int32_t>> sequences,
                              const CalibrationOptions& options);

// kInvalid unless the model has routed experts, all equally wide and none in halves.
Status check_prunable(const ModelFiles& model);

}  // namespace moebius
