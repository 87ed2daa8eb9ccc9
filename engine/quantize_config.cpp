// config.json of a quantised checkpoint.
#include <algorithm>

#include <fmt/format.h>

#include "engine/quantize.h"
#include "models/json_fields.h"
#include "models/packed_config.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

// "model.layers.3.mlp.experts" of a routed expert's matrix, or all of another name.
std::string module_of(const QuantizeMatrix& m) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = m.role == Role::kExpert ? m.name.find(kExperts) : m.name.npos;
  return at == m.name.npos ? m.name : m.name.substr(0, at + kExperts.size() - 1);
}

void add_name(std::vector<std::string>& names, const QuantizeMatrix& m) {
  const std::string name = packed_module_name(module_of(m));
  if (names.empty() || names.back() != name) names.push_back(name);
}

Json quantization_of(const QuantizePlan& plan) {
  std::vector<std::string> ignore;
  PackFormat format;
  bool router = false;
  for (const QuantizeMatrix& m : plan.matrices) {
    if (m.packed) format = m.format;
    if (!m.packed && m.role != Role::kEmbed && m.role != Role::kRouter) add_name(ignore, m);
    router |= m.role == Role::kRouter;
  }
  if (router) ignore.push_back("re:.*mlp\\.gate$");
  return packed_quantization(format.format == Format::kInt4 ? 4 : 8, format.group, ignore);
}

}  // namespace

Result<std::string> quantized_config(const std::string& text, const QuantizePlan& plan,
                                     const std::string& origin) {
  Json config = parse_ordered_json(text);
  if (!config.is_object()) return invalid(fmt::format("{}: not a JSON object", origin));
  const auto is_packed = [](const QuantizeMatrix& m) { return m.packed; };
  config.erase("quantization_config");
  if (std::any_of(plan.matrices.begin(), plan.matrices.end(), is_packed))
    config["quantization_config"] = quantization_of(plan);
  if (plan.dropped > 0 && config.contains("num_nextn_predict_layers")) config["num_nextn_predict_layers"] = 0;
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace moebius
