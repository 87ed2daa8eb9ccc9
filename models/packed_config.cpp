#include "models/packed_config.h"

namespace moebius {

using nlohmann::ordered_json;

ordered_json packed_quantization(int bits, int64_t group, const std::vector<std::string>& ignore) {
  const ordered_json weights = {{"num_bits", bits},     {"type", "int"},
                                {"strategy", "group"},  {"group_size", group},
                                {"symmetric", true},    {"dynamic", false},
                                {"actorder", nullptr},  {"block_structure", nullptr},
                                {"observer", "minmax"}, {"observer_kwargs", ordered_json::object()}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", weights},
              {"input_activations", nullptr},
              {"output_activations", nullptr}}}}},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr},
          {"quantization_status", "compressed"}};
}

std::string packed_module_name(const std::string& module) {
  if (!module.ends_with(".experts")) return module;
  std::string pattern = "re:";
  for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern + "\\.";
}

}  // namespace moebius
