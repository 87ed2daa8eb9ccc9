// The heat of a model's experts, kept from run to run in a small file, so that the next start places on the
// device those that were used.
#pragma once

#include <string>

#include "engine/expert_moves.h"
#include "models/weights.h"

namespace moebius {

// safetensors: F32 [experts] for every MoE layer, "layer.<index>"; `model` tells models apart.
// kNotFound: no such file. kInvalid: another model's, or numbers that cannot be heat.
Result<ExpertHeat> read_heat(const std::string& path, const std::string& model, const Weights& weights);
// Atomically; makes the folder.
Status write_heat(const std::string& path, const std::string& model, const ExpertHeat& heat);

}  // namespace moebius
