// model.safetensors.index.json: which shard holds which tensor. For models/ only.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/status.h"

namespace moebius {

// Pairs (tensor, shard) of "weight_map" in the order of the file. Everything else in the object is skipped.
// Refused: malformed JSON, more than 64 levels, no weight_map or an empty one, a tensor twice, a million
// tensors or more, and shard names that are not plain names ending in ".safetensors". file: its name in
// messages.
Result<std::vector<std::pair<std::string, std::string>>> parse_shard_index(std::string_view json,
                                                                           const std::string& file);

}  // namespace moebius
