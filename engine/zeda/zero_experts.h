// Zero experts (ZEDA, arXiv 2605.18643): a checkpoint whose router may also choose experts that compute
// nothing, and the model it was before.
//
// A model is injected (this file), adapted (adaptation.h) and measured (usage.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/weights.h"

namespace moebius {

struct InjectOptions {
  int64_t zero_experts = 0;  // of each layer with experts; 0: half of its experts
  uint64_t seed = 0;
  std::function<bool(int64_t done, int64_t total)> progress;  // bytes; false cancels (kCancelled)
};

// kInvalid and kUnsupported name what keeps a model from having zero experts, and the remedy: no routed
// experts, zero experts already, an architecture without a layout for them, routing in groups, a router in a
// quantised format, or more zero experts than fit the layout.
Status check_injectable(const ModelFiles& model, const InjectOptions& options);

// Writes the checkpoint with zero experts into dir, which exists: every tensor byte for byte, in shards of
// the same names, and routers and selection biases with more rows behind those they have. Number j of a new
// row is drawn from the Gaussian with the mean and the standard deviation (of a sample: over N - 1) of that
// number in the N rows; a bias likewise. config.json as the released conversions have it (model_type
// ..._plus_plus, zce_nums, zce_types, use_zce_mask).
Status write_injected(const ModelFiles& model, const InjectOptions& options, const std::string& dir);

// The same files with other numbers in routers and selection biases: by name, with ".weight" or in full.
using RouterValues = std::function<const std::vector<float>*(const std::string& tensor)>;
Status write_with_routers(const ModelFiles& injected, const RouterValues& values, const std::string& dir,
                          const std::function<bool(int64_t, int64_t)>& progress);

// Whether the checkpoint is one that write_injected() wrote: its weights are those of the model it was made
// from, which is there again without the zero experts' rows.
bool is_injected(const ModelFiles& model);
// That model: views of the same weights.
ModelConfig without_zero_experts(const ModelConfig& config);
Weights without_zero_experts(const ModelConfig& config, const Weights& weights);

}  // namespace moebius
