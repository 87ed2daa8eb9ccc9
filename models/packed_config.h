// quantization_config of compressed-tensors' `pack-quantized` format, as programs write it that pack weights
// (https://github.com/vllm-project/compressed-tensors): symmetric integers with a scale per group of columns.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace moebius {

// For all linear maps but the modules of `ignore`. One scheme, for transformers (seen with 5.23) takes a
// second one for the experts or not at all.
nlohmann::ordered_json packed_quantization(int bits, int64_t group, const std::vector<std::string>& ignore);

// How `ignore` names a module: by its name; all routed experts of a layer ("model.layers.3.mlp.experts") by
// a pattern, "re:" and what must match a name's beginning.
std::string packed_module_name(const std::string& module);

}  // namespace moebius
