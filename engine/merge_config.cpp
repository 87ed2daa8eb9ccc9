// config.json of a merged checkpoint: which modules are quantised no more.
#include <algorithm>

#include <fmt/format.h>

#include "engine/merge.h"
#include "models/json_fields.h"
#include "models/packed_config.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

Status append_names(Json& quantization, const char* field, const std::vector<std::string>& names,
                    const std::string& origin) {
  Json& list = quantization[field];
  if (list.is_null()) list = Json::array();
  if (!list.is_array())
    return invalid(fmt::format("{}: quantization_config.{} is not a list; correct it", origin, field));
  for (const std::string& name : names)
    if (std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
  return Status();
}

// fp8: transformers reads modules_to_not_convert, and leaves out the head by itself only where there is no
// such list; other programs read ignored_layers first where it is there.
Status mark_fp8(Json& quantization, const MergePlan& plan, const std::string& origin) {
  constexpr const char* kSkipped = "modules_to_not_convert";
  const auto at = quantization.find(kSkipped);
  if (at == quantization.end() || at->is_null())
    MOEBIUS_TRY(append_names(quantization, kSkipped, plan.plain_modules, origin));
  MOEBIUS_TRY(append_names(quantization, kSkipped, plan.unpacked_modules, origin));
  if (!quantization.contains("ignored_layers")) return Status();
  return append_names(quantization, "ignored_layers", plan.unpacked_modules, origin);
}

Status mark_unpacked(Json& config, const MergePlan& plan, const std::string& origin) {
  const auto at = config.find("quantization_config");
  if (at == config.end() || !at->is_object())
    return invalid(fmt::format("{}: quantization_config is missing, but weights are quantised", origin));
  if (!plan.quantized) {
    config.erase("quantization_config");
    return Status();
  }
  if ((*at)["quant_method"] == "fp8") return mark_fp8(*at, plan, origin);
  std::vector<std::string> names;
  for (const std::string& module : plan.unpacked_modules) names.push_back(packed_module_name(module));
  return append_names(*at, "ignore", names, origin);
}

}  // namespace

Result<std::string> merged_config(const std::string& text, const MergePlan& plan, const std::string& origin) {
  const bool widen = plan.type == MergeType::kF32;
  if (plan.unpacked_modules.empty() && !widen) return text;
  Json config = parse_ordered_json(text);
  if (!config.is_object()) return invalid(fmt::format("{}: not a JSON object", origin));
  if (!plan.unpacked_modules.empty()) MOEBIUS_TRY(mark_unpacked(config, plan, origin));
  // Loaders round weights to this type; what was asked for in float32 would be lost again.
  if (widen) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = "float32";
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace moebius
