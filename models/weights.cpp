#include "models/weights.h"

#include <fmt/format.h>

namespace moebius {
namespace {

#define VISIT_MATRIX(...) MOEBIUS_TRY(visitor.matrix(__VA_ARGS__))
#define VISIT_VECTOR(...) MOEBIUS_TRY(visitor.vector(__VA_ARGS__))

Status visit_mla(const ModelConfig& c, const std::string& at, LayerWeights& w, const WeightVisitor& visitor) {
  const Role role = Role::kAttention;
  if (c.q_lora > 0) {
    VISIT_MATRIX(at + "q_a_proj", role, c.q_lora, c.hidden, w.q_a);
    if (c.qkv_bias) VISIT_VECTOR(at + "q_a_proj.bias", c.q_lora, w.q_bias);
    VISIT_VECTOR(at + "q_a_layernorm.weight", c.q_lora, w.q_a_norm);
    VISIT_MATRIX(at + "q_b_proj", role, c.heads * c.qk_dim(), c.q_lora, w.q_b);
  } else {
    VISIT_MATRIX(at + "q_proj", role, c.heads * c.qk_dim(), c.hidden, w.q);
  }
  VISIT_MATRIX(at + "kv_a_proj_with_mqa", role, c.kv_lora + c.rope, c.hidden, w.kv_a);
  if (c.qkv_bias) VISIT_VECTOR(at + "kv_a_proj_with_mqa.bias", c.kv_lora + c.rope, w.k_bias);
  VISIT_VECTOR(at + "kv_a_layernorm.weight", c.kv_lora, w.kv_a_norm);
  VISIT_MATRIX(at + "kv_b_proj", role, c.heads * (c.nope + c.v_dim), c.kv_lora, w.kv_b);
  return Status();
}

Status visit_gqa(const ModelConfig& c, const std::string& at, LayerWeights& w, const WeightVisitor& visitor) {
  const Role role = Role::kAttention;
  const int64_t q_rows = c.heads * c.head_dim, kv_rows = c.kv_heads * c.head_dim;
  VISIT_MATRIX(at + "q_proj", role, q_rows, c.hidden, w.q);
  VISIT_MATRIX(at + "k_proj", role, kv_rows, c.hidden, w.k);
  VISIT_MATRIX(at + "v_proj", role, kv_rows, c.hidden, w.v);
  if (c.qkv_bias) {
    VISIT_VECTOR(at + "q_proj.bias", q_rows, w.q_bias);
    VISIT_VECTOR(at + "k_proj.bias", kv_rows, w.k_bias);
    VISIT_VECTOR(at + "v_proj.bias", kv_rows, w.v_bias);
  }
  if (c.qk_norm) {
    VISIT_VECTOR(at + "q_norm.weight", c.head_dim, w.q_norm);
    VISIT_VECTOR(at + "k_norm.weight", c.head_dim, w.k_norm);
  }
  return Status();
}

Status visit_ffn(const std::string& at, Role role, int64_t hidden, int64_t width, FfnWeights& w,
                 const WeightVisitor& visitor) {
  VISIT_MATRIX(at + "gate_proj", role, width, hidden, w.gate);
  VISIT_MATRIX(at + "up_proj", role, width, hidden, w.up);
  VISIT_MATRIX(at + "down_proj", role, hidden, width, w.down);
  return Status();
}

Status visit_moe(const ModelConfig& c, const std::string& at, const std::vector<int64_t>* widths,
                 LayerWeights& w, const WeightVisitor& visitor) {
  const int64_t rows = c.moe.n_experts + c.moe.zero_experts;
  VISIT_MATRIX(at + "gate", Role::kRouter, rows, c.hidden, w.router);
  if (c.moe.selection_bias) VISIT_VECTOR(at + "gate.e_score_correction_bias", rows, w.router_bias);
  if (c.moe.shared_width > 0) {
    MOEBIUS_TRY(
        visit_ffn(at + "shared_experts.", Role::kShared, c.hidden, c.moe.shared_width, w.ffn, visitor));
  }
  w.experts.resize(static_cast<size_t>(c.moe.n_experts));
  for (int64_t e = 0; e < c.moe.n_experts; ++e) {
    const size_t i = static_cast<size_t>(e);
    const std::string name = fmt::format("{}experts.{}.", at, e);
    const int64_t width = widths ? (*widths)[i] : c.moe.width;
    MOEBIUS_TRY(visit_ffn(name, Role::kExpert, c.hidden, width, w.experts[i], visitor));
  }
  return Status();
}

Status visit_layer(const ModelConfig& c, int64_t l, const std::vector<int64_t>* widths, LayerWeights& w,
                   const WeightVisitor& visitor) {
  const std::string at = fmt::format("model.layers.{}.", l);
  VISIT_VECTOR(at + "input_layernorm.weight", c.hidden, w.attention_norm);
  const std::string attention = at + "self_attn.";
  MOEBIUS_TRY(c.attention == AttentionKind::kMla ? visit_mla(c, attention, w, visitor)
                                                 : visit_gqa(c, attention, w, visitor));
  VISIT_MATRIX(attention + "o_proj", Role::kAttention, c.hidden, c.heads * c.value_dim(), w.o);
  if (c.o_bias) VISIT_VECTOR(attention + "o_proj.bias", c.hidden, w.o_bias);
  VISIT_VECTOR(at + "post_attention_layernorm.weight", c.hidden, w.ffn_norm);
  if (c.moe_layer[static_cast<size_t>(l)]) return visit_moe(c, at + "mlp.", widths, w, visitor);
  return visit_ffn(at + "mlp.", Role::kDense, c.hidden, c.dense_width, w.ffn, visitor);
}

}  // namespace

Status visit_weights(const ModelConfig& c, Weights& weights, const WeightVisitor& visitor) {
  weights.layers.resize(static_cast<size_t>(c.layers));
  VISIT_MATRIX("model.embed_tokens", Role::kEmbed, c.vocab, c.hidden, weights.embed);
  size_t moe_index = 0;
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::vector<int64_t>* widths = nullptr;
    if (c.moe_layer[static_cast<size_t>(l)] && !c.moe.widths.empty()) widths = &c.moe.widths[moe_index++];
    MOEBIUS_TRY(visit_layer(c, l, widths, weights.layers[static_cast<size_t>(l)], visitor));
  }
  VISIT_VECTOR("model.norm.weight", c.hidden, weights.final_norm);
  if (c.tied_head) {
    weights.head = weights.embed;
    return Status();
  }
  return visitor.matrix("lm_head", Role::kHead, c.vocab, c.hidden, weights.head);
}

}  // namespace moebius
