// adapter_config.json: parsing, then what the reader asks of it.
#include <cstdint>
#include <string>
#include <string_view>

#include "models/peft_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = moebius::PeftConfig::parse(text, "fuzz");
  if (!config.ok()) return 0;
  for (const char* name : {"model.layers.1.mlp.experts.17.gate_proj", "lm_head", "model.layers.0.mlp.gate"}) {
    static_cast<void>(config->targets_module(name).ok());
    static_cast<void>(config->targets_parameter(std::string(name) + ".weight"));
    const auto scaling = config->scaling(name);
    if (scaling.ok() && (*scaling).rank < 1) __builtin_trap();
  }
  return 0;
}
