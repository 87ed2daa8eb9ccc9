// What tensors a synthetic checkpoint consists of, and their writing, shard by shard.
#pragma once

#include <vector>

#include "models/config.h"
#include "tools/synth.h"
#include "tools/synth_random.h"

namespace moebius {

struct ShardPlan {
  std::string file;
  std::vector<TensorSpec> tensors;
};

// Every tensor of the model in file order, cut into shards of about options.shard_bytes. kUnsupported: widths
// that the format cannot hold.
Result<std::vector<ShardPlan>> plan_shards(const ModelConfig& config, const SynthOptions& options);

int64_t plan_bytes(const std::vector<ShardPlan>& shards);

// Writes the shards, and the index when there are several, into dir.
Status write_shards(const std::vector<ShardPlan>& shards, const std::string& dir, const SynthOptions& options,
                    const SynthProgress& progress);

}  // namespace moebius
