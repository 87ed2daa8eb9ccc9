#include "tools/synth_config.h"

#include <algorithm>

#include <fmt/format.h>

#include "models/geometries.h"
#include "models/json_fields.h"
#include "models/packed_config.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

bool has_moe(const ModelConfig& config) {
  return std::find(config.moe_layer.begin(), config.moe_layer.end(), true) != config.moe_layer.end();
}

Result<ModelConfig> parse(const ordered_json& json, const std::string& origin) {
  return ModelConfig::parse(json.dump(-1, ' ', false, ordered_json::error_handler_t::replace), origin);
}

// Entries that speak of every layer, or of every MoE layer, for fewer layers.
void cut_lists(ordered_json& json, int64_t layers) {
  for (const char* name : {"mlp_layer_types", "layer_types"}) {
    if (!json.contains(name) || !json[name].is_array()) continue;
    ordered_json& list = json[name];
    if (static_cast<int64_t>(list.size()) > layers)
      list.erase(list.begin() + static_cast<ptrdiff_t>(layers), list.end());
  }
}

Result<ModelConfig> set_layers(ordered_json& json, const ModelConfig& original, int64_t layers,
                               const std::string& origin) {
  json["num_hidden_layers"] = layers;
  cut_lists(json, layers);
  if (json.contains("moe_intermediate_sizes") && json["moe_intermediate_sizes"].is_array()) {
    const int64_t last = std::min(layers, original.layers);
    const auto kept = std::count(original.moe_layer.begin(), original.moe_layer.begin() + last, true);
    ordered_json& list = json["moe_intermediate_sizes"];
    if (static_cast<int64_t>(list.size()) > kept)
      list.erase(list.begin() + static_cast<ptrdiff_t>(kept), list.end());
  }
  MOEBIUS_ASSIGN(ModelConfig config, parse(json, origin));
  if (has_moe(config) || !has_moe(original)) return config;
  json["first_k_dense_replace"] = layers - 1;  // a mixture of experts keeps a layer of them
  return parse(json, origin);
}

// As published: DeepSeek-V3 for fp8; compressed-tensors, and Kimi-K2-Thinking's exceptions, for integers.
ordered_json quantization(const SynthOptions& options) {
  std::vector<std::string> ignore;
  if (options.experts_only)
    ignore = {"lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
              "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"};
  ignore.push_back("re:.*mlp\\.gate$");
  if (options.format == Format::kFp8Block) {
    ordered_json fp8 = {{"quant_method", "fp8"},
                        {"fmt", "e4m3"},
                        {"activation_scheme", "dynamic"},
                        {"weight_block_size", {kFp8Block, kFp8Block}}};
    if (options.experts_only)
      fp8["modules_to_not_convert"] = {"lm_head", "self_attn", "shared_experts", "mlp.gate"};
    return fp8;
  }
  return packed_quantization(options.format == Format::kInt4 ? 4 : 8, kActivationGroup, ignore);
}

std::optional<int32_t> id_in(const ordered_json& json, const char* name, int64_t vocab) {
  if (!json.contains(name)) return std::nullopt;
  const ordered_json& value = json[name].is_array() && !json[name].empty() ? json[name][0] : json[name];
  if (!value.is_number_integer()) return std::nullopt;
  const int64_t id = value.get<int64_t>();
  return id >= 0 && id < vocab ? std::optional(static_cast<int32_t>(id)) : std::nullopt;
}

}  // namespace

Result<SynthConfig> make_synth_config(const SynthOptions& options) {
  MOEBIUS_ASSIGN(const std::string text, geometry_config(options.geometry));
  MOEBIUS_ASSIGN(const ModelConfig original, ModelConfig::parse(text, options.geometry));
  SynthConfig out;
  out.json = parse_ordered_json(text);
  if (!out.json.is_object()) return invalid(fmt::format("{}: not a JSON object", options.geometry));
  out.json.erase("quantization_config");
  if (out.json.contains("num_nextn_predict_layers")) out.json["num_nextn_predict_layers"] = 0;
  const int64_t layers = options.layers > 0 ? options.layers : original.layers;
  MOEBIUS_ASSIGN(out.config, set_layers(out.json, original, layers, options.geometry));
  if (options.format != Format::kBF16) out.json["quantization_config"] = quantization(options);
  out.special = place_special_ids(out.config.vocab, id_in(out.json, "bos_token_id", out.config.vocab),
                                  id_in(out.json, "eos_token_id", out.config.vocab));
  if (has_room_for_tokenizer(out.config.vocab)) {
    out.json["bos_token_id"] = out.special.bos;
    if (out.config.eos_ids.empty() || !id_in(out.json, "eos_token_id", out.config.vocab))
      out.json["eos_token_id"] = out.special.eos;
  }
  out.json["moebius_random_weights"] = true;
  MOEBIUS_ASSIGN(out.config, parse(out.json, options.geometry));
  return out;
}

ordered_json synth_generation_config(const SynthConfig& config, bool has_tokenizer) {
  ordered_json json = {{"do_sample", true}, {"temperature", 1.0}};
  ordered_json eos = config.config.eos_ids;
  if (has_tokenizer) {
    json["bos_token_id"] = config.special.bos;
    if (std::find(eos.begin(), eos.end(), config.special.im_end) == eos.end())
      eos.push_back(config.special.im_end);
  }
  if (!eos.empty()) json["eos_token_id"] = eos;
  return json;
}

}  // namespace moebius
