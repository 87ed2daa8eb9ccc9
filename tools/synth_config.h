// The JSON files of a synthetic checkpoint.
#pragma once

#include <nlohmann/json.hpp>

#include "models/config.h"
#include "tools/synth.h"
#include "tools/synth_tokenizer.h"

namespace moebius {

struct SynthConfig {
  nlohmann::ordered_json json;  // config.json as it will be written
  ModelConfig config;           // json, parsed
  SpecialIds special;           // of the tokenizer
};

// The geometry's configuration with the layers and the format asked for.
Result<SynthConfig> make_synth_config(const SynthOptions& options);

// generation_config.json. has_tokenizer: without one there is no <|im_end|> to stop at.
nlohmann::ordered_json synth_generation_config(const SynthConfig& config, bool has_tokenizer);

}  // namespace moebius
