#include "models/config.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/checkpoint.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

using Json = nlohmann::json;

enum class Bias : uint8_t { kNone, kQkv, kQkvO };

// What a family does that its config.json does not say, or says under its own default.
struct Architecture {
  const char* model_type;
  AttentionKind attention;
  Scoring scoring;
  GroupScore group_score;
  bool selection_bias;
  bool interleaved;       // default of rope_interleave
  Bias bias;              // which projections attention_bias speaks of
  double partial_rotary;  // default of partial_rotary_factor
  int64_t first_dense;    // default of first_k_dense_replace
  bool zero_experts;      // the ZEDA form
};

constexpr AttentionKind kMla = AttentionKind::kMla, kGqa = AttentionKind::kGqa;
constexpr GroupScore kMax = GroupScore::kMax, kTop2 = GroupScore::kTop2Sum;
constexpr Scoring kSoft = Scoring::kSoftmax, kSigm = Scoring::kSigmoid;

// clang-format off
constexpr Architecture kArchitectures[] = {
    // model_type, attention, scoring, groups, selection bias, interleaved, biases, partial, dense, zero
    {"deepseek_v2",              kMla, kSoft, kMax,  false, true,  Bias::kQkvO, 1.0, 0, false},
    {"deepseek_v3",              kMla, kSigm, kTop2, true,  true,  Bias::kQkvO, 1.0, 3, false},
    {"kimi_k2",                  kMla, kSigm, kTop2, true,  true,  Bias::kQkvO, 1.0, 3, false},
    {"glm4_moe_lite",            kMla, kSigm, kTop2, true,  true,  Bias::kQkvO, 1.0, 1, false},
    {"glm4_moe",                 kGqa, kSigm, kTop2, true,  false, Bias::kQkv,  0.5, 1, false},
    {"qwen3_moe",                kGqa, kSoft, GroupScore::kNone, false, false, Bias::kQkvO, 1.0, 0, false},
    {"deepseek_v3_plus_plus",    kMla, kSigm, kTop2, true,  true,  Bias::kQkvO, 1.0, 3, true},
    {"glm4_moe_lite_plus_plus",  kMla, kSigm, kTop2, true,  true,  Bias::kQkvO, 1.0, 1, true},
    {"qwen3_moe_plus_plus",      kGqa, kSoft, GroupScore::kNone, false, false, Bias::kQkvO, 1.0, 0, true},
};
// clang-format on

Result<Architecture> find_architecture(const std::string& model_type, const std::string& origin) {
  std::string known;
  for (const Architecture& row : kArchitectures) {
    if (model_type == row.model_type) return row;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.model_type);
  }
  return unsupported(fmt::format("{}: model_type \"{}\" is not one of {}", origin, model_type, known));
}

Status read_attention(const Architecture& arch, JsonFields& in, ModelConfig& c) {
  c.attention = arch.attention;
  c.heads = in.integer("num_attention_heads", 1, 1 << 16);
  c.kv_heads = in.integer("num_key_value_heads", c.heads, 1, 1 << 16);
  const bool bias = in.boolean("attention_bias", false);
  c.qkv_bias = bias && arch.bias != Bias::kNone;
  c.o_bias = bias && arch.bias == Bias::kQkvO;
  if (arch.attention == kMla) {
    c.q_lora = in.integer("q_lora_rank", 0, 0, 1 << 20);
    c.kv_lora = in.integer("kv_lora_rank", 1, 1 << 20);
    c.nope = in.integer("qk_nope_head_dim", 1, 1 << 16);
    c.rope = in.integer("qk_rope_head_dim", 2, 1 << 16);
    c.v_dim = in.integer("v_head_dim", 1, 1 << 16);
    return in.status();
  }
  MOEBIUS_TRY(in.status());
  c.head_dim = in.integer("head_dim", std::max<int64_t>(c.hidden / c.heads, 1), 1, 1 << 16);
  c.qk_norm = c.model_type == "glm4_moe" ? in.boolean("use_qk_norm", false) : true;
  if (in.status().ok() && c.heads % c.kv_heads != 0) {
    return in.error("num_key_value_heads", fmt::format("{} does not divide {} heads", c.kv_heads, c.heads));
  }
  return in.status();
}

// rope_theta and rope_scaling as published, or rope_parameters as transformers 5 writes them.
Status read_rotary(const Architecture& arch, JsonFields& in, ModelConfig& c) {
  RotaryConfig& r = c.rotary;
  JsonFields parameters = in.object("rope_parameters");
  JsonFields scaling = parameters.empty() ? in.object("rope_scaling") : parameters;
  r.theta = parameters.number("rope_theta", in.number("rope_theta", 10000, 1, 1e12), 1, 1e12);
  r.interleaved = arch.attention == kMla ? in.boolean("rope_interleave", arch.interleaved) : arch.interleaved;
  const double partial = parameters.number(
      "partial_rotary_factor", in.number("partial_rotary_factor", arch.partial_rotary, 0, 1), 0, 1);
  const int64_t per_head = arch.attention == kMla ? c.rope : c.head_dim;
  r.dim = static_cast<int64_t>(static_cast<double>(per_head) * partial);
  if (in.status().ok() && (r.dim < 2 || r.dim % 2 != 0)) {
    return in.error("qk_rope_head_dim, head_dim or partial_rotary_factor",
                    fmt::format("rotates {} numbers per head, which is not an even number above 0", r.dim));
  }
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "yarn") {
    r.yarn = true;
    r.factor = scaling.number("factor", 1, 1e6);
    r.original_context =
        scaling.number("original_max_position_embeddings", static_cast<double>(c.context), 1, 1e9);
    r.beta_fast = scaling.number("beta_fast", 32, 1e-6, 1e6);
    r.beta_slow = scaling.number("beta_slow", 1, 1e-6, 1e6);
    r.mscale = scaling.number("mscale", 1, 0, 100);
    r.mscale_all_dim = scaling.number("mscale_all_dim", 0, 0, 100);
    r.attention_factor = scaling.number("attention_factor", 0, 0, 100);
  } else if (type != "default") {
    return unsupported(
        fmt::format("{}: rotary scaling \"{}\" is not supported; default and yarn are", in.origin(), type));
  }
  MOEBIUS_TRY(parameters.status());
  return scaling.status();
}

Status read_moe_layers(const Architecture& arch, JsonFields& in, ModelConfig& c) {
  const int64_t first_moe = in.integer("first_k_dense_replace", arch.first_dense, 0, 1 << 16);
  const int64_t every = in.integer("moe_layer_freq", 1, 1, 1 << 16);
  const int64_t sparse_step = in.integer("decoder_sparse_step", 1, 1, 1 << 16);
  const std::vector<int64_t> dense_layers = in.integers("mlp_only_layers", 0, 1 << 16);
  const std::vector<std::string> kinds = in.texts("mlp_layer_types");  // transformers 5
  MOEBIUS_TRY(in.status());
  if (!kinds.empty() && static_cast<int64_t>(kinds.size()) != c.layers) {
    return in.error("mlp_layer_types", fmt::format("{} entries for {} layers", kinds.size(), c.layers));
  }
  for (int64_t l = 0; l < c.layers; ++l) {
    const bool listed = std::find(dense_layers.begin(), dense_layers.end(), l) != dense_layers.end();
    const bool by_rule = l >= first_moe && l % every == 0 && (l + 1) % sparse_step == 0 && !listed;
    const bool sparse = kinds.empty() ? by_rule : kinds[static_cast<size_t>(l)] == "sparse";
    c.moe_layer.push_back(sparse && c.moe.n_experts > 0);
  }
  return Status();
}

Status read_router(const Architecture& arch, JsonFields& in, ModelConfig& c) {
  MoeConfig& m = c.moe;
  m.scoring = arch.scoring;
  m.selection_bias = arch.selection_bias;
  m.top_k = in.integer("num_experts_per_tok", 1, 1 << 16);
  m.normalize = in.boolean("norm_topk_prob", arch.scoring == kSigm);
  m.scale = in.number("routed_scaling_factor", 1.0, 1e-6, 1e6);
  m.n_group = in.integer("n_group", 1, 1, 1 << 16);
  m.topk_group = in.integer("topk_group", 1, 1, 1 << 16);
  const std::string method = in.text("topk_method", "");
  MOEBIUS_TRY(in.status());
  const bool grouped = c.model_type == "deepseek_v2" ? method == "group_limited_greedy" : m.n_group > 1;
  m.group_score = grouped ? arch.group_score : GroupScore::kNone;
  if (!grouped) m.n_group = m.topk_group = 1;
  if (c.model_type == "deepseek_v2" && m.normalize) {
    return unsupported(
        fmt::format("{}: norm_topk_prob true with deepseek_v2 has no agreed meaning; published models "
                    "of this family set it to false",
                    in.origin()));
  }
  if (m.n_experts % m.n_group != 0 || m.topk_group > m.n_group) {
    return in.error("n_group", fmt::format("{} groups (top {}) do not fit {} experts", m.n_group,
                                           m.topk_group, m.n_experts));
  }
  if (grouped && arch.group_score == kTop2 && m.n_experts / m.n_group < 2) {
    return in.error("n_group", "a group needs at least two experts");
  }
  if (m.n_group > 1 && m.zero_experts > 0) {
    return unsupported(
        fmt::format("{}: zero experts together with n_group {} are not supported", in.origin(), m.n_group));
  }
  const int64_t reachable = m.n_experts / m.n_group * m.topk_group + m.zero_experts;
  if (m.top_k > reachable) {
    return in.error("num_experts_per_tok", fmt::format("{} of {} selectable experts", m.top_k, reachable));
  }
  return Status();
}

Status read_zero_experts(const Architecture& arch, JsonFields& in, MoeConfig& m) {
  if (!arch.zero_experts) return Status();
  const std::vector<int64_t> counts = in.integers("zce_nums", 0, 1 << 20);
  const std::vector<std::string> types = in.texts("zce_types");
  MOEBIUS_TRY(in.status());
  if (counts.empty() || counts.size() != types.size()) {
    return in.error("zce_nums", "zce_nums and zce_types must be lists of the same length, not empty");
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    if (types[i] != "zero") {
      return unsupported(
          fmt::format("{}: zce_types \"{}\" is not supported, only \"zero\" is", in.origin(), types[i]));
    }
    m.zero_experts += counts[i];
  }
  return Status();
}

Status read_widths(JsonFields& in, ModelConfig& c) {
  MoeConfig& m = c.moe;
  m.widths = in.integer_lists("moe_intermediate_sizes", 1, m.width);
  MOEBIUS_TRY(in.status());
  if (m.widths.empty()) return Status();
  const auto moe_layers = std::count(c.moe_layer.begin(), c.moe_layer.end(), true);
  if (static_cast<int64_t>(m.widths.size()) != moe_layers) {
    return in.error("moe_intermediate_sizes",
                    fmt::format("{} lists for {} MoE layers", m.widths.size(), moe_layers));
  }
  for (const auto& list : m.widths) {
    if (static_cast<int64_t>(list.size()) != m.n_experts) {
      return in.error("moe_intermediate_sizes",
                      fmt::format("{} widths for {} experts", list.size(), m.n_experts));
    }
  }
  return Status();
}

Status read_moe(const Architecture& arch, JsonFields& in, ModelConfig& c) {
  MoeConfig& m = c.moe;
  for (const char* name : {"n_routed_experts", "num_experts", "num_local_experts"}) {
    if (m.n_experts == 0) m.n_experts = in.integer(name, 0, 0, 1 << 20);
  }
  MOEBIUS_TRY(read_moe_layers(arch, in, c));
  c.dense_width = in.integer("intermediate_size", 1, 1, 1 << 24);
  if (m.n_experts == 0) return in.status();
  m.width = in.integer("moe_intermediate_size", 1, 1 << 24);
  const int64_t shared = in.integer("n_shared_experts", 0, 0, 1 << 10);
  m.shared_width = c.model_type.starts_with("qwen3_moe") ? 0 : shared * m.width;
  MOEBIUS_TRY(read_zero_experts(arch, in, m));
  MOEBIUS_TRY(read_router(arch, in, c));
  m.halves = in.boolean("moe_expert_halves", false);
  if (m.halves && (m.n_experts % 2 != 0 || m.top_k % 2 != 0))
    return in.error("moe_expert_halves", fmt::format("{} of {} experts are no pairs", m.top_k, m.n_experts));
  return read_widths(in, c);
}

Status read_packed(JsonFields& quant) {
  const std::string format = quant.text("format", "");
  if (format != "pack-quantized") {
    return unsupported(fmt::format("{}: compressed-tensors format \"{}\" is not supported; pack-quantized is",
                                   quant.origin(), format));
  }
  for (JsonFields& group : quant.objects("config_groups")) {
    JsonFields w = group.object("weights");
    const int64_t bits = w.integer("num_bits", 1, 16);
    const std::string type = w.text("type", "int"), strategy = w.text("strategy", "group");
    const bool symmetric = w.boolean("symmetric", true);
    MOEBIUS_TRY(w.status());
    if ((bits != 4 && bits != 8) || type != "int" || !symmetric ||
        (strategy != "group" && strategy != "channel")) {
      return unsupported(
          fmt::format("{}: weights of {} bits, type {}, strategy {}, symmetric {}; supported are symmetric "
                      "int4 and int8 by group or channel",
                      quant.origin(), bits, type, strategy, symmetric));
    }
  }
  return quant.status();
}

Status read_quantization(JsonFields& in, ModelConfig& c) {
  JsonFields quant = in.object("quantization_config");
  if (quant.empty()) return quant.status();
  const std::string method = quant.text("quant_method", "");
  if (method == "compressed-tensors") {
    c.quant = ModelConfig::Quant::kPacked;
    return read_packed(quant);
  }
  if (method != "fp8") {
    return unsupported(fmt::format("{}: quant_method \"{}\" is not supported; fp8 and compressed-tensors are",
                                   in.origin(), method));
  }
  c.quant = ModelConfig::Quant::kFp8;
  const std::vector<int64_t> block = quant.integers("weight_block_size", 1, 1 << 20);
  const std::string fmt_name = quant.text("fmt", "e4m3");
  MOEBIUS_TRY(quant.status());
  if (fmt_name != "e4m3" || block != std::vector<int64_t>{kFp8Block, kFp8Block}) {
    return unsupported(fmt::format("{}: fp8 weights must be e4m3 in blocks of 128 x 128", in.origin()));
  }
  return Status();
}

double yarn_mscale(double factor, double m) { return factor > 1 ? 0.1 * m * std::log(factor) + 1 : 1; }

}  // namespace

Result<ModelConfig> ModelConfig::parse(std::string_view json, const std::string& origin) {
  const Json document = parse_json(json);
  if (!document.is_object()) return invalid(fmt::format("{}: not a JSON object", origin));
  JsonFields in(document, origin);
  ModelConfig c;
  c.model_type = in.text("model_type", "");
  MOEBIUS_ASSIGN(const Architecture arch, find_architecture(c.model_type, origin));
  c.layers = in.integer("num_hidden_layers", 1, 4096);
  c.hidden = in.integer("hidden_size", 1, 1 << 20);
  c.vocab = in.integer("vocab_size", 1, 1 << 24);
  c.context = in.integer("max_position_embeddings", 1, int64_t{1} << 30);
  c.norm_eps = static_cast<float>(in.number("rms_norm_eps", 1e-6, 0, 1));
  c.tied_head = in.boolean("tie_word_embeddings", false);
  c.mtp_layers = in.integer("num_nextn_predict_layers", 0, 0, 64);
  c.random_weights = in.boolean("moebius_random_weights", false);
  for (int64_t id : in.integers("eos_token_id", 0, (int64_t{1} << 31) - 1))
    c.eos_ids.push_back(static_cast<int32_t>(id));
  if (const std::string act = in.text("hidden_act", "silu"); act != "silu") {
    return unsupported(fmt::format("{}: hidden_act \"{}\" is not supported, only silu is", origin, act));
  }
  MOEBIUS_TRY(in.status());
  MOEBIUS_TRY(read_attention(arch, in, c));
  MOEBIUS_TRY(read_rotary(arch, in, c));
  MOEBIUS_TRY(read_moe(arch, in, c));
  MOEBIUS_TRY(read_quantization(in, c));
  MOEBIUS_TRY(in.status());
  double scale = 1 / std::sqrt(static_cast<double>(c.qk_dim()));
  if (arch.attention == kMla && c.rotary.yarn && c.rotary.mscale_all_dim > 0) {
    const double m = yarn_mscale(c.rotary.factor, c.rotary.mscale_all_dim);
    scale *= m * m;
  }
  c.softmax_scale = static_cast<float>(scale);
  return c;
}

Result<ModelConfig> ModelConfig::load(const std::string& dir) {
  const std::string path = dir + "/config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path, 16 << 20));
  return parse(text, path);
}

RotaryTable rotary_table(const RotaryConfig& r) {
  RotaryTable table;
  const int64_t half = r.dim / 2;
  const double dim = static_cast<double>(r.dim);
  // The pair index at which a wavelength turns `rotations` times over the original context.
  const auto pair_of = [&](double rotations) {
    return dim * std::log(r.original_context / (rotations * 2 * M_PI)) / (2 * std::log(r.theta));
  };
  double low = 0, high = 1;
  if (r.yarn) {
    low = std::max(std::floor(pair_of(r.beta_fast)), 0.0);
    high = std::min(std::ceil(pair_of(r.beta_slow)), dim - 1);
    if (low == high) high += 0.001;
    const double derived = r.mscale > 0 && r.mscale_all_dim > 0
                               ? yarn_mscale(r.factor, r.mscale) / yarn_mscale(r.factor, r.mscale_all_dim)
                               : yarn_mscale(r.factor, 1);
    table.magnitude = static_cast<float>(r.attention_factor > 0 ? r.attention_factor : derived);
  }
  for (int64_t i = 0; i < half; ++i) {
    double frequency = std::pow(r.theta, -2.0 * static_cast<double>(i) / dim);
    if (r.yarn) {  // low pairs turn fast and stay; high pairs are slowed by `factor`; a ramp between
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequency = frequency * (1 - ramp) + frequency / r.factor * ramp;
    }
    table.inverse_frequency.push_back(static_cast<float>(frequency));
  }
  return table;
}

Result<GenerationConfig> GenerationConfig::load(const std::string& dir, const ModelConfig& config) {
  GenerationConfig g;
  g.eos_ids = config.eos_ids;
  const std::string path = dir + "/generation_config.json";
  Result<std::string> text = read_text_file(path, 1 << 20);
  if (!text.ok())
    return text.status().code() == Code::kNotFound ? Result<GenerationConfig>(g) : text.status();
  const Json document = parse_json(*text);
  if (!document.is_object()) return invalid(fmt::format("{}: not a JSON object", path));
  JsonFields in(document, path);
  const std::vector<int64_t> eos = in.integers("eos_token_id", 0, (int64_t{1} << 31) - 1);
  if (!eos.empty()) g.eos_ids.assign(eos.begin(), eos.end());
  g.do_sample = in.boolean("do_sample", true);
  g.temperature = in.number("temperature", 1, 0, 100);
  g.top_k = in.integer("top_k", 0, 0, int64_t{1} << 31);
  g.top_p = in.number("top_p", 1, 1e-6, 1);
  g.min_p = in.number("min_p", 0, 0, 1);
  g.repetition_penalty = in.number("repetition_penalty", 1, 1e-6, 10);
  MOEBIUS_TRY(in.status());
  return g;
}

}  // namespace moebius
