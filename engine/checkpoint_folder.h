// What a checkpoint that was made from another needs besides its shards.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/status.h"

namespace moebius {

// Copies what belongs to a model besides its weights and config.json: tokenizer, chat template, generation
// configuration, code and licence, by known names. The model card is left: it describes another model.
Status copy_companions(const std::string& from, const std::string& to);

// dir/model.safetensors.index.json. shards: (tensor, file) for every tensor.
Status write_shard_index(const std::string& dir, int64_t bytes,
                         const std::vector<std::pair<std::string, std::string>>& shards);

}  // namespace moebius
